//! The encoding of integers, text, lists and the types of `hadal-types`.

use crate::codec::{DecodeError, Input, Wire, get_string, put_bytes, put_str};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Buf, Bytes};
use hadal_types::{
    Block, BlockId, BlockPoolId, CallId, ClientId, ClusterId, DatanodeUuid, Digest, Epoch,
    GenerationStamp, HaState, InodeId, LayoutVersion, NamespaceInfo, ReplicaState, StorageUuid,
    TxId,
};

macro_rules! integer {
    ($($ty:ty, $get:ident, $len:literal);* $(;)?) => {$(
        impl Wire for $ty {
            const MIN_LEN: usize = $len;

            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(input: &mut Input) -> Result<Self, DecodeError> {
                input.need($len, stringify!($ty))?;
                Ok(input.buf().$get())
            }
        }
    )*};
}

integer!(u8, get_u8, 1; u16, get_u16_le, 2; u32, get_u32_le, 4; u64, get_u64_le, 8; u128, get_u128_le, 16);

impl Wire for bool {
    const MIN_LEN: usize = 1;

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { what: "bool" }),
        }
    }
}

impl Wire for String {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut Vec<u8>) {
        put_str(out, self);
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        get_string(input, "text")
    }
}

impl Wire for Bytes {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self);
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        let length = input.count(1, "bytes")?;
        input.take(length, "bytes")
    }
}

impl<const N: usize> Wire for [u8; N] {
    const MIN_LEN: usize = if N == 0 { 1 } else { N };

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        input.need(N, "array")?;
        let mut array = [0; N];
        input.buf().copy_to_slice(&mut array);
        Ok(array)
    }
}

impl<T: Wire> Wire for Vec<T> {
    const MIN_LEN: usize = 4;

    fn encode(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.len()).expect("lists are capped far below 2^32");
        out.extend_from_slice(&count.to_le_bytes());
        for item in self {
            item.encode(out);
        }
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        let count = input.count(T::MIN_LEN, "list")?;
        // Grown while elements really arrive: a count alone buys only a small allocation.
        let mut list = Self::with_capacity(count.min(1024));
        for _ in 0..count {
            list.push(T::decode(input)?);
        }
        Ok(list)
    }
}

impl<T: Wire> Wire for Option<T> {
    const MIN_LEN: usize = 1;

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                value.encode(out);
            }
        }
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        Ok(if bool::decode(input)? {
            Some(T::decode(input)?)
        } else {
            None
        })
    }
}

impl<T: Wire> Wire for Box<T> {
    const MIN_LEN: usize = T::MIN_LEN;

    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }

    fn decode(input: &mut Input) -> Result<Self, DecodeError> {
        Ok(Self::new(T::decode(input)?))
    }
}

macro_rules! newtype {
    ($($ty:ident($inner:ty)),* $(,)?) => {$(
        impl Wire for $ty {
            const MIN_LEN: usize = <$inner>::MIN_LEN;

            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(input: &mut Input) -> Result<Self, DecodeError> {
                Ok(Self(<$inner>::decode(input)?))
            }
        }
    )*};
}

newtype!(
    BlockId(u64),
    GenerationStamp(u64),
    TxId(u64),
    Epoch(u64),
    InodeId(u64),
    CallId(u64),
    ClientId(u128),
    DatanodeUuid(u128),
    StorageUuid(u128),
    Digest(u128),
    LayoutVersion(u32),
    ClusterId(String),
    BlockPoolId(String),
);

macro_rules! record {
    ($ty:ident { $($field:ident : $fty:ty),* }) => {
        impl Wire for $ty {
            const MIN_LEN: usize = 0 $(+ <$fty>::MIN_LEN)*;

            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$field.encode(out);)*
            }

            fn decode(input: &mut Input) -> Result<Self, DecodeError> {
                Ok(Self { $($field: <$fty>::decode(input)?),* })
            }
        }
    };
}

record!(Block {
    id: BlockId,
    generation_stamp: GenerationStamp,
    length: u64
});
record!(NamespaceInfo {
    layout: LayoutVersion,
    namespace_id: u64,
    cluster_id: ClusterId,
    block_pool_id: BlockPoolId,
    created_ms: u64
});

macro_rules! state {
    ($ty:ident { $($tag:literal => $variant:ident),* $(,)? }) => {
        impl Wire for $ty {
            const MIN_LEN: usize = 1;

            fn encode(&self, out: &mut Vec<u8>) {
                out.push(match self { $(Self::$variant => $tag),* });
            }

            fn decode(input: &mut Input) -> Result<Self, DecodeError> {
                match u8::decode(input)? {
                    $($tag => Ok(Self::$variant),)*
                    tag => Err(DecodeError::UnknownTag { what: stringify!($ty), tag }),
                }
            }
        }
    };
}

state!(ReplicaState { 0 => Finalized, 1 => Rbw, 2 => Rwr, 3 => Rur, 4 => Temporary });
state!(HaState { 0 => Initializing, 1 => Active, 2 => Standby, 3 => Observer });
