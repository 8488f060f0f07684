//! Why a line is no query, in words of the query and not of a JSON parser.

use policy::evaluate::query::Query;
use serde_json::Value;

const FIELDS: [&str; 4] = ["src", "dst", "protocol", "port"];
/// Characters of a field's name that are shown.
const MAX_SHOWN: usize = 40;

/// Reads one query.
///
/// # Errors
/// What is wrong with it, and how it should be.
pub fn read(line: &[u8]) -> Result<Query, String> {
    // Only a line with a mistake is read twice.
    serde_json::from_slice(line).map_err(|_| mistake(line))
}

fn mistake(line: &[u8]) -> String {
    if std::str::from_utf8(line).is_err() {
        return "the query is not UTF-8 text".to_owned();
    }
    let Ok(Value::Object(query)) = serde_json::from_slice(line) else {
        return r#"the query is not a JSON object; write {"src": "web-1", "dst": "db-1", "protocol": "tcp", "port": 5432}"#
            .to_owned();
    };
    if let Some(unknown) = query.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let shown: String = unknown.chars().take(MAX_SHOWN).collect();
        return format!(
            "the query has no field `{}`; its fields are src, dst, protocol and port",
            shown.escape_debug()
        );
    }
    for (name, what) in [
        ("src", "a host's name or an address"),
        ("dst", "a host's name or an address"),
        ("protocol", "such as \"tcp\""),
    ] {
        match query.get(name) {
            None => return format!("the query needs a field `{name}`: {what}"),
            Some(Value::String(_)) => {}
            Some(_) => return format!("`{name}` is a text: {what}"),
        }
    }
    let is_port = |port: &Value| {
        port.is_null()
            || port
                .as_u64()
                .is_some_and(|port| u16::try_from(port).is_ok())
    };
    if !query.get("port").is_none_or(is_port) {
        return "`port` is a number from 0 to 65535".to_owned();
    }
    // What a map cannot show.
    "a field stands in the query twice".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named_in_words_of_the_query() {
        let needs = |field: &str| format!("the query needs a field `{field}`");
        for (line, words) in [
            ("{", "the query is not a JSON object; write {"),
            ("[1]", "the query is not a JSON object; write {"),
            ("{} {}", "the query is not a JSON object; write {"),
            ("{}", &needs("src")),
            (r#"{"src": "a"}"#, &needs("dst")),
            (r#"{"src": "a", "dst": "b"}"#, &needs("protocol")),
            (
                r#"{"src": "a", "dst": 7, "protocol": "tcp"}"#,
                "`dst` is a text: a host's name",
            ),
            (
                r#"{"src": "a", "prot": "tcp"}"#,
                "the query has no field `prot`; its fields are",
            ),
            (
                r#"{"src": "a", "src": "b", "dst": "b", "protocol": "tcp"}"#,
                "a field stands",
            ),
        ] {
            let error = read(line.as_bytes()).map(drop);
            let error = error.err().unwrap_or_default();
            assert!(error.starts_with(words), "{line}: {error}");
            assert!(!error.contains("column"), "{line}: {error}");
        }
        for port in [
            "65536",
            "-1",
            "80.5",
            "\"80\"",
            "99999999999999999999",
            "true",
        ] {
            let line = format!(r#"{{"src": "a", "dst": "b", "protocol": "tcp", "port": {port}}}"#);
            let error = read(line.as_bytes()).map(drop);
            assert_eq!(
                error,
                Err("`port` is a number from 0 to 65535".to_owned()),
                "{port}"
            );
        }
        assert_eq!(
            read(b"\xff").map(drop),
            Err("the query is not UTF-8 text".to_owned())
        );
    }
}
