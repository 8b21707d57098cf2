//! The encoding of messages and edits.
//!
//! A struct is its fields in order. An enum is a `u8` tag, then the variant's fields. New variants get new
//! tags, new fields go to the end of a message under a new protocol version. Tags are never reused.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::{Buf, Bytes};
use thiserror::Error;

/// Why bytes are not the message they should be. The peer or the disk is wrong, never the reader.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// The input ended inside a value.
    #[error("message ends inside {what}")]
    Truncated {
        /// Which type was being read.
        what: &'static str,
    },
    /// A tag no version of this enum has.
    #[error("unknown tag {tag} for {what}: written by a newer version, or damaged")]
    UnknownTag {
        /// Which enum.
        what: &'static str,
        /// The tag found.
        tag: u8,
    },
    /// A count or length beyond its cap.
    #[error("{what} of length {length} is over its cap of {cap}")]
    TooLong {
        /// Which type.
        what: &'static str,
        /// The length found.
        length: usize,
        /// The most that is accepted.
        cap: usize,
    },
    /// A value outside its range (a boolean of 7, text that is not UTF-8).
    #[error("invalid {what}")]
    Invalid {
        /// Which type.
        what: &'static str,
    },
    /// Bytes behind the end of the message.
    #[error("{left} bytes left over behind the message")]
    Trailing {
        /// How many.
        left: usize,
    },
}

/// Bytes being decoded. Byte strings are handed out as slices of it, without a copy.
#[derive(Clone, Debug)]
pub struct Input(Bytes);

impl Input {
    /// Starts decoding `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] naming `what`.
    pub fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        if self.0.len() < length {
            return Err(DecodeError::Truncated { what });
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn need(&self, length: usize, what: &'static str) -> Result<(), DecodeError> {
        if self.0.len() < length {
            Err(DecodeError::Truncated { what })
        } else {
            Ok(())
        }
    }

    pub(crate) fn buf(&mut self) -> &mut Bytes {
        &mut self.0
    }

    /// A list's count, capped by what the rest of the input could hold at `min_len` bytes an element.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] or [`DecodeError::TooLong`].
    pub fn count(&mut self, min_len: usize, what: &'static str) -> Result<usize, DecodeError> {
        self.need(4, what)?;
        let count = self.0.get_u32_le() as usize;
        let cap = self.0.len() / min_len.max(1);
        if count > cap {
            return Err(DecodeError::TooLong {
                what,
                length: count,
                cap,
            });
        }
        Ok(count)
    }
}

/// A value with an encoding.
pub trait Wire: Sized {
    /// The fewest bytes any value takes; at least 1, so that a count is bounded by the input's length.
    const MIN_LEN: usize;

    /// Appends the encoding.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not such a value.
    fn decode(input: &mut Input) -> Result<Self, DecodeError>;
}

/// The encoding of `value` as one buffer.
#[must_use]
pub fn encode<T: Wire>(value: &T) -> Bytes {
    let mut out = Vec::with_capacity(64.max(T::MIN_LEN));
    value.encode(&mut out);
    Bytes::from(out)
}

/// Decodes exactly one value that fills `bytes`.
///
/// # Errors
/// [`DecodeError`], also for bytes left over.
pub fn decode<T: Wire>(bytes: Bytes) -> Result<T, DecodeError> {
    let mut input = Input::new(bytes);
    let value = T::decode(&mut input)?;
    match input.left() {
        0 => Ok(value),
        left => Err(DecodeError::Trailing { left }),
    }
}

pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("frames are capped far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn get_string(input: &mut Input, what: &'static str) -> Result<String, DecodeError> {
    let length = input.count(1, what)?;
    let bytes = input.take(length, what)?;
    match core::str::from_utf8(&bytes) {
        Ok(text) => Ok(String::from(text)),
        Err(_) => Err(DecodeError::Invalid { what }),
    }
}

/// Declares a struct with its encoding: the fields in order.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }

        impl $crate::codec::Wire for $name {
            const MIN_LEN: usize = {
                let total = 0 $(+ <$ty as $crate::codec::Wire>::MIN_LEN)*;
                if total == 0 { 1 } else { total }
            };

            fn encode(&self, out: &mut ::alloc::vec::Vec<u8>) {
                $($crate::codec::Wire::encode(&self.$field, out);)*
            }

            fn decode(input: &mut $crate::codec::Input) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: <$ty as $crate::codec::Wire>::decode(input)?),* })
            }
        }
    };
}

/// Declares an enum with its encoding: a `u8` tag, then the variant's fields in order. Variants are unit or
/// have named fields.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$vmeta:meta])* $tag:literal => $variant:ident $({ $($(#[$fmeta:meta])* $field:ident : $ty:ty),* $(,)? })?),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$vmeta])* $variant $({ $($(#[$fmeta])* #[allow(missing_docs, reason = "the doc of the variant speaks for its fields")] $field: $ty),* })?),* }

        impl $crate::codec::Wire for $name {
            const MIN_LEN: usize = 1;

            fn encode(&self, out: &mut ::alloc::vec::Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        out.push($tag);
                        $($($crate::codec::Wire::encode($field, out);)*)?
                    })*
                }
            }

            fn decode(input: &mut $crate::codec::Input) -> Result<Self, $crate::codec::DecodeError> {
                match <u8 as $crate::codec::Wire>::decode(input)? {
                    $($tag => Ok(Self::$variant $({ $($field: <$ty as $crate::codec::Wire>::decode(input)?),* })?),)*
                    tag => Err($crate::codec::DecodeError::UnknownTag { what: stringify!($name), tag }),
                }
            }
        }

        impl $name {
            /// Tag and name of every variant.
            pub const VARIANTS: &'static [(u8, &'static str)] = &[$(($tag, stringify!($variant))),*];

            /// The variant's name, for logs, metrics and audit lines.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant $({ $($field: _),* })? => stringify!($variant),)*
                }
            }
        }
    };
}
