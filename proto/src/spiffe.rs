//! Who a certificate speaks for: the SPIFFE id in its only URI name.

use std::{fmt, str::FromStr};

use crate::hex;

const TRUST_DOMAIN: &str = "spiffe://bulkhead/";

/// The controller's number of one enrolment of one host; a host that enrols again gets another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub [u8; 16]);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostId({self})")
    }
}

impl FromStr for HostId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        hex::decode(text)
            .map(Self)
            .ok_or_else(|| NotAnId(text.to_owned()))
    }
}

/// Whom the controller's CA issues certificates to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SpiffeId {
    /// `spiffe://bulkhead/controller`
    Controller,
    /// `spiffe://bulkhead/host/<host id>`
    Host(HostId),
    /// `spiffe://bulkhead/operator/<name>`
    Operator(String),
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TRUST_DOMAIN)?;
        match self {
            Self::Controller => f.write_str("controller"),
            Self::Host(id) => write!(f, "host/{id}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = NotAnId;

    fn from_str(uri: &str) -> Result<Self, NotAnId> {
        let refused = || NotAnId(uri.to_owned());
        let path = uri.strip_prefix(TRUST_DOMAIN).ok_or_else(refused)?;
        match path.split_once('/') {
            None if path == "controller" => Ok(Self::Controller),
            Some(("host", id)) => id.parse().map(Self::Host).map_err(|_| refused()),
            Some(("operator", name)) if is_operator_name(name) => {
                Ok(Self::Operator(name.to_owned()))
            }
            _ => Err(refused()),
        }
    }
}

/// Whether an operator can have this name: 1 to 63 of `a-z`, `0-9`, `-`, `.`, `_`, the first a
/// letter or digit.
#[must_use]
pub fn is_operator_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 63
        && name.bytes().next().is_some_and(plain)
        && name
            .bytes()
            .all(|byte| plain(byte) || b"-._".contains(&byte))
}

/// A text that is no id of this trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id of spiffe://bulkhead")]
pub struct NotAnId(pub String);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]

    use super::*;

    #[test]
    fn every_id_survives_its_text_form() {
        let ids = [
            SpiffeId::Controller,
            SpiffeId::Host(HostId([0xa7; 16])),
            SpiffeId::Operator("ann.smith-2".into()),
        ];
        for id in ids {
            assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }
    }

    #[test]
    fn what_is_not_ours_is_nobody() {
        for uri in [
            "",
            "spiffe://elsewhere/controller",
            "spiffe://bulkhead/",
            "spiffe://bulkhead/controller/x",
            "spiffe://bulkhead/host/",
            "spiffe://bulkhead/host/12",
            "spiffe://bulkhead/operator/",
            "spiffe://bulkhead/operator/a/b",
            "spiffe://bulkhead/operator/Ann",
        ] {
            assert_eq!(uri.parse::<SpiffeId>(), Err(NotAnId(uri.into())));
        }
    }
}
