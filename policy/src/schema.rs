//! JSON Schemas (draft 2020-12) of the files, for editors. The parser is the authority: it also
//! checks what a schema cannot say, such as whether a name that is used exists.

/// Of one document of a policy file, of any kind.
pub const POLICY: &str = include_str!("../schema/policy.schema.json");
/// Of an inventory.
pub const INVENTORY: &str = include_str!("../schema/inventory.schema.json");

#[cfg(test)]
mod tests;
