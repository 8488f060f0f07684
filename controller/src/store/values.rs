//! Between the values of the model and those of SQLite.

use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;

/// A list or map as the text of a column.
pub fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Content("a value"))
}

/// The list or map in a column; `what` is what the column holds, in words.
pub fn from_json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Content(what))
}

/// The array in a blob.
pub fn array<const N: usize>(blob: &[u8], what: &'static str) -> Result<[u8; N], StoreError> {
    blob.try_into().map_err(|_| StoreError::Content(what))
}

/// SQLite's integers are signed; nothing here counts past them.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The counterpart of [`signed`].
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
