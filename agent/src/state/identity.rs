//! Who this host is to its controller: a certificate, its key and the CA, in one file so that they
//! always fit together.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use super::{StateDir, StateError};

const FILE: &str = "identity.toml";
const REMEDY: &str =
    "remove it and enrol the host again with a new token (`bulkhead token create`)";

/// A host's certificate and what belongs to it.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostIdentity {
    /// The name that the controller knows the host by.
    pub host_name: String,
    /// The only CA that is believed.
    pub ca_pem: String,
    /// Leaf first.
    pub certificate_chain_pem: String,
    /// PKCS #8; was made on this host and never left it.
    pub key_pem: String,
}

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: SystemTime,
    /// Until.
    pub not_after: SystemTime,
}

/// A new key, and the request for a certificate on it.
pub struct KeyRequest {
    /// PKCS #8, PEM.
    pub key_pem: String,
    /// PKCS #10, PEM. It holds nothing but the key: the controller decides who the host is.
    pub csr_pem: String,
}

/// A certificate that the controller sent and the host cannot use.
#[derive(Debug, thiserror::Error)]
#[error("the controller sent a certificate that cannot be used: {0}")]
pub struct UnusableCertificate(String);

impl HostIdentity {
    /// Reads the identity; none before enrolment.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn load(state: &StateDir) -> Result<Option<Self>, StateError> {
        let Some(content) = state.read(FILE)? else {
            return Ok(None);
        };
        let damaged = |problem: String| StateError::Damaged {
            path: state.file(FILE),
            problem,
            remedy: REMEDY,
        };
        // The parser's long form would repeat the line, which may be the key.
        let identity: Self =
            toml::from_slice(&content).map_err(|error| damaged(error.message().to_owned()))?;
        identity.validity().map_err(|error| damaged(error.0))?;
        Ok(Some(identity))
    }

    /// Writes the identity, in place of any other.
    ///
    /// # Errors
    /// When the file cannot be written; the old identity then stays.
    pub fn save(&self, state: &StateDir) -> Result<(), StateError> {
        let text = toml::to_string(self).map_err(|error| StateError::Damaged {
            path: state.file(FILE),
            problem: error.to_string(),
            remedy: REMEDY,
        })?;
        state.replace(FILE, text.as_bytes())
    }

    /// When the host's own certificate is good.
    ///
    /// # Errors
    /// When the chain does not begin with a certificate.
    pub fn validity(&self) -> Result<Validity, UnusableCertificate> {
        let unusable = |problem: &dyn fmt::Display| UnusableCertificate(problem.to_string());
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.certificate_chain_pem.as_bytes())
            .map_err(|error| unusable(&error))?;
        let certificate = pem.parse_x509().map_err(|error| unusable(&error))?;
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs());
        let validity = certificate.validity();
        Ok(Validity {
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        })
    }
}

impl fmt::Debug for HostIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host_name, .. } = self;
        f.debug_struct("HostIdentity")
            .field("host_name", host_name)
            .finish_non_exhaustive()
    }
}

impl Validity {
    /// The middle: when a new certificate is asked for.
    #[must_use]
    pub fn half_life(&self) -> SystemTime {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_before + life / 2
    }

    /// Whether the time has come that the certificate is not good any more.
    #[must_use]
    pub fn is_over(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }
}

impl KeyRequest {
    /// Makes a P-256 key.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(Self {
            key_pem: key.serialize_pem(),
            csr_pem: params.serialize_request(&key)?.pem()?,
        })
    }
}

#[cfg(test)]
pub mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// An identity that vouches for itself, good for an hour around `now`.
    pub fn self_signed() -> HostIdentity {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.not_before = (SystemTime::now() - Duration::from_secs(1800)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(1800)).into();
        let certificate = params.self_signed(&key).unwrap().pem();
        HostIdentity {
            host_name: "web-1".into(),
            ca_pem: certificate.clone(),
            certificate_chain_pem: certificate,
            key_pem: key.serialize_pem(),
        }
    }

    #[test]
    fn an_identity_survives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        assert_eq!(HostIdentity::load(&state).unwrap(), None);
        let identity = self_signed();
        identity.save(&state).unwrap();
        assert_eq!(HostIdentity::load(&state).unwrap(), Some(identity.clone()));
        let validity = identity.validity().unwrap();
        assert!(!validity.is_over(SystemTime::now()));
        assert!(validity.is_over(SystemTime::now() + Duration::from_secs(1801)));
        let off = validity.half_life().duration_since(SystemTime::now());
        assert!(
            off.unwrap_or_default() < Duration::from_secs(5),
            "half-life is now"
        );
    }

    #[test]
    fn a_damaged_identity_says_what_to_do_and_shows_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        for content in ["key_pem = 'SECRET", "host_name = 1\nkey_pem = 'SECRET'"] {
            state.replace(FILE, content.as_bytes()).unwrap();
            let text = HostIdentity::load(&state).unwrap_err().to_string();
            assert!(text.contains("bulkhead token create"), "{text}");
            assert!(!text.contains("SECRET"), "{text}");
        }
        assert!(!format!("{:?}", self_signed()).contains("PRIVATE"));
    }

    #[test]
    fn a_key_request_is_for_a_p256_key_and_claims_nothing() {
        let request = KeyRequest::generate().unwrap();
        let csr = rcgen::CertificateSigningRequestParams::from_pem(&request.csr_pem).unwrap();
        assert!(csr.params.subject_alt_names.is_empty());
        assert_eq!(csr.params.distinguished_name.iter().count(), 0);
        assert!(
            KeyPair::from_pem(&request.key_pem)
                .unwrap()
                .is_compatible(&PKCS_ECDSA_P256_SHA256)
        );
    }
}
