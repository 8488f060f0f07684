//! A host's report in the store: as the wire has it, so that what an older version wrote is read as an
//! older agent's report is.

use prost::Message as _;
use proto::{host_report::HostReport, v1};
use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

/// Writes the message's bytes; none where the host never reported.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(
    report: &Option<HostReport>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let bytes = report
        .clone()
        .map(|report| v1::HostReport::from(report).encode_to_vec());
    bytes.serialize(serializer)
}

/// Reads them. What cannot be read counts as never reported: the host reports again when it connects.
///
/// # Errors
/// Those of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<HostReport>, D::Error> {
    let bytes = Option::<Vec<u8>>::deserialize(deserializer)?;
    Ok(bytes
        .and_then(|bytes| v1::HostReport::decode(bytes.as_slice()).ok())
        .and_then(|report| HostReport::try_from(report).ok()))
}
