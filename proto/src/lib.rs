//! `bulkhead.v1`: what controller, agents and operators say to each other.
//!
//! [`v1`] is generated from `bulkhead/v1/*.proto`; [`convert`] goes between it and the types of the
//! policy crate, and refuses what those types cannot hold.

#![forbid(unsafe_code)]

use policy::HostPolicy;
use prost::Message;
use sha2::{Digest, Sha256};

#[cfg(feature = "client")]
pub mod client;
pub mod convert;
pub mod hex;
pub mod host_report;
#[cfg(feature = "client")]
pub mod pin;
pub mod spiffe;
pub mod token;

pub use convert::ConvertError;

/// The generated messages, clients and servers.
pub mod v1 {
    #![expect(
        missing_docs,
        unused_qualifications,
        clippy::allow_attributes,
        reason = "generated; the .proto files carry the documentation"
    )]

    tonic::include_proto!("bulkhead.v1");
}

/// The DNS name in every controller's certificate, checked whatever address was dialled.
pub const SERVER_NAME: &str = "controller.bulkhead.internal";

/// The TCP port that a controller listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7443;

/// The largest message that either side takes: a host policy with every table full, or all policy
/// files of an apply, with room to spare. In bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A SHA-256 digest.
pub type Sha256Digest = [u8; 32];

/// The SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256::digest(bytes).into()
}

/// Encodes a host policy for [`v1::PolicyUpdate`]: the bytes and their SHA-256.
///
/// Equal policies give equal bytes.
#[must_use]
pub fn encode_host_policy(policy: &HostPolicy) -> (Vec<u8>, Sha256Digest) {
    let bytes = v1::HostPolicy::from(policy).encode_to_vec();
    let digest = sha256(&bytes);
    (bytes, digest)
}

/// Decodes what [`encode_host_policy`] made; `digest` is the one that came with it.
///
/// # Errors
/// [`DecodeError`] when the bytes do not have the digest, are not a message, or mean no policy.
pub fn decode_host_policy(bytes: &[u8], digest: &[u8]) -> Result<HostPolicy, DecodeError> {
    if sha256(bytes) != digest {
        return Err(DecodeError::Digest);
    }
    let policy = HostPolicy::try_from(v1::HostPolicy::decode(bytes)?)?;
    policy.check()?;
    Ok(policy)
}

/// Why bytes are not a host policy.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are not the bytes that were digested.
    #[error("the host policy does not have the digest that came with it")]
    Digest,
    /// They are not a protobuf message.
    #[error("reading the host policy message")]
    Message(#[from] prost::DecodeError),
    /// The message holds what no policy can hold.
    #[error("reading the host policy")]
    Content(#[from] ConvertError),
    /// A host policy that `compile` would not make.
    #[error("the host policy breaks a promise of the compiler")]
    Promise(#[from] policy::host_policy::Malformed),
}
