//! Enrolment tokens: a one-time secret, and which CA to believe before telling it to anybody.

use std::{fmt, str::FromStr};

use crate::{Sha256Digest, hex, sha256};

const VERSION: &str = "bulkhead1";

/// `bulkhead1.<secret, 64 hex digits>.<SHA-256 of the CA certificate's DER, 64 hex digits>`.
///
/// [`fmt::Display`] writes the whole token, the secret included; [`fmt::Debug`] hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// What buys a certificate, once.
    pub secret: [u8; 32],
    /// The only CA that the secret may be told to.
    pub ca_sha256: Sha256Digest,
}

impl EnrolmentToken {
    /// The secret as [`crate::v1::EnrollRequest::token_secret`] carries it.
    #[must_use]
    pub fn secret_hex(&self) -> String {
        hex::encode(&self.secret)
    }

    /// What a controller keeps of the secret.
    #[must_use]
    pub fn secret_sha256(&self) -> Sha256Digest {
        sha256(&self.secret)
    }
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{VERSION}.{}.{}",
            hex::encode(&self.secret),
            hex::encode(&self.ca_sha256)
        )
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "EnrolmentToken({VERSION}.(hidden).{})",
            hex::encode(&self.ca_sha256)
        )
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some(VERSION) {
            return Err(TokenError);
        }
        let mut next = || parts.next().and_then(hex::decode).ok_or(TokenError);
        let token = Self {
            secret: next()?,
            ca_sha256: next()?,
        };
        parts.next().is_none().then_some(token).ok_or(TokenError)
    }
}

/// A text that is no token. It does not repeat the text: that may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not an enrolment token: one looks like `bulkhead1.<64 hex digits>.<64 hex digits>`; \
     copy it whole, or ask the operator for a new one (`bulkhead token create`)"
)]
pub struct TokenError;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed parse is a failed test")]

    use super::*;

    #[test]
    fn a_token_survives_its_text_form_and_a_trailing_newline() {
        let token = EnrolmentToken {
            secret: [1; 32],
            ca_sha256: [0xfe; 32],
        };
        assert_eq!(
            format!("{token}\n").parse::<EnrolmentToken>().unwrap(),
            token
        );
    }

    #[test]
    fn a_damaged_token_is_refused_whole() {
        let good = EnrolmentToken {
            secret: [1; 32],
            ca_sha256: [2; 32],
        }
        .to_string();
        for bad in [
            String::new(),
            good.replace("bulkhead1", "bulkhead2"),
            good[..good.len() - 1].to_owned(),
            format!("{good}.00"),
            good.replace("01", "0g"),
        ] {
            assert_eq!(bad.parse::<EnrolmentToken>(), Err(TokenError), "{bad}");
        }
    }

    #[test]
    fn the_secret_is_not_in_the_debug_form() {
        let token = EnrolmentToken {
            secret: [0xab; 32],
            ca_sha256: [2; 32],
        };
        assert!(!format!("{token:?}").contains(&token.secret_hex()));
    }
}
