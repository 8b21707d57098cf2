//! Who asks.

use alloc::string::String;
use alloc::vec::Vec;

/// A user as the driver resolved it: the name in the certificate, the groups from `cluster.groups` or the OS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// User name.
    pub user: String,
    /// Groups the user is a member of.
    pub groups: Vec<String>,
    /// `cluster.superuser` itself or a member of the superuser group: permissions do not apply.
    pub superuser: bool,
}

impl Caller {
    /// The superuser of that name.
    #[must_use]
    pub fn superuser(user: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            groups: Vec::new(),
            superuser: true,
        }
    }

    /// A plain user.
    #[must_use]
    pub fn user(user: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            user: user.into(),
            groups: groups.iter().map(|group| String::from(*group)).collect(),
            superuser: false,
        }
    }

    /// Whether the user is in that group.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
