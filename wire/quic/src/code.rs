//! The codes streams are reset and stopped with.
//!
//! A code is [`BASE`] plus the tag of a [`FaultClass`], so the other side learns the reason of a
//! refusal without reading anything.

use hadal_proto::{Fault, FaultClass, Wire};

/// `H` in the high byte: tells our codes from those of other programs.
pub const BASE: u64 = 0x4800;

/// Given up without a reason: the half was dropped.
pub const DROPPED: u64 = BASE + 0xff;

/// The connection was ended in an orderly way.
pub const CLOSED: u64 = 0;

/// The connection was refused: the certificate carries no role, or not the expected name.
pub const REFUSED: u64 = BASE + 0xfe;

/// The code for a class of fault.
#[must_use]
pub fn of(class: FaultClass) -> u64 {
    let mut tag = Vec::with_capacity(1);
    class.encode(&mut tag);
    BASE + u64::from(tag[0])
}

/// The class of fault a code stands for, if it stands for one.
#[must_use]
pub fn class(code: u64) -> Option<FaultClass> {
    let tag = u8::try_from(code.checked_sub(BASE)?).ok()?;
    hadal_proto::decode(bytes::Bytes::copy_from_slice(&[tag])).ok()
}

/// The fault a refused stream stands for, when its code is one of ours.
#[must_use]
pub fn fault(code: u64, detail: &str) -> Option<Fault> {
    let class = class(code)?;
    Some(Fault::new(
        class,
        format!("the peer refused the stream ({}): {detail}", class.name()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_name_their_class() {
        assert_eq!(
            class(of(FaultClass::BadRequest)),
            Some(FaultClass::BadRequest)
        );
        assert_eq!(
            class(of(FaultClass::Forbidden)),
            Some(FaultClass::Forbidden)
        );
        assert_eq!(class(DROPPED), None);
        assert_eq!(class(0), None);
        assert_eq!(class(u64::MAX), None);
    }
}
