//! Role and name in a certificate.

use hadal_types::{Principal, Role};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The DNS name every certificate of a role carries, and by which a dialler checks the role.
pub(crate) fn role_name(role: Role) -> String {
    format!("{role}.hadal")
}

/// Why a certificate, though issued by the cluster's CA, names no principal.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum NoPrincipal {
    #[error("it cannot be parsed: {0}")]
    Unparsable(String),
    #[error("its subject has {found} {attribute} attributes instead of one")]
    Attribute {
        attribute: &'static str,
        found: usize,
    },
    #[error("its organizational unit {0:?} is no role of Hadal")]
    UnknownRole(String),
    #[error("its subject says role {role}, but it is not valid for the name {role}.hadal")]
    NameOfRoleMissing { role: Role },
}

/// What a certificate says of its holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    pub(crate) principal: Principal,
    /// Validity, in seconds since 1970.
    pub(crate) not_before_s: i64,
    pub(crate) not_after_s: i64,
}

/// Reads role (organizational unit) and name (common name) from a certificate. Proves nothing: the
/// chain must have been verified.
pub(crate) fn holder(certificate: &CertificateDer<'_>) -> Result<Holder, NoPrincipal> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| NoPrincipal::Unparsable(error.to_string()))?;
    let subject = parsed.subject();
    let unit = only(
        "organizational unit",
        subject
            .iter_organizational_unit()
            .map(|attribute| attribute.as_str()),
    )?;
    let name = only(
        "common name",
        subject
            .iter_common_name()
            .map(|attribute| attribute.as_str()),
    )?;
    let role = Role::parse(unit).ok_or_else(|| NoPrincipal::UnknownRole(unit.to_owned()))?;
    let wanted = role_name(role);
    let named = parsed
        .subject_alternative_name()
        .map_err(|error| NoPrincipal::Unparsable(error.to_string()))?
        .is_some_and(|names| {
            names
                .value
                .general_names
                .iter()
                .any(|name| matches!(name, GeneralName::DNSName(dns) if *dns == wanted))
        });
    if !named {
        return Err(NoPrincipal::NameOfRoleMissing { role });
    }
    Ok(Holder {
        principal: Principal {
            role,
            name: name.to_owned(),
        },
        not_before_s: parsed.validity().not_before.timestamp(),
        not_after_s: parsed.validity().not_after.timestamp(),
    })
}

fn only<'a, E: std::fmt::Display>(
    attribute: &'static str,
    values: impl Iterator<Item = Result<&'a str, E>>,
) -> Result<&'a str, NoPrincipal> {
    let mut values: Vec<_> = values.collect();
    if values.len() != 1 {
        return Err(NoPrincipal::Attribute {
            attribute,
            found: values.len(),
        });
    }
    let value = values.remove(0);
    value.map_err(|error| NoPrincipal::Unparsable(error.to_string()))
}
