//! Words, lists and mappings as YAML, quoted only where YAML needs it.

/// Columns after which a list or mapping gets a line for each item.
const WIDTH: usize = 100;

/// A word that may stand anywhere, also inside `[]` and `{}`.
pub(super) fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./@+".contains(c));
    if plain && !is_another_type(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// A value that stands alone on its line.
pub(super) fn sentence(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' '])
        && text
            .chars()
            .all(|c| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric());
    if plain && !is_another_type(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Text behind a `#`: on one line, and nothing that steers a terminal.
pub(super) fn comment(text: &str) -> String {
    text.chars()
        .map(|c| {
            if is_safe(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

/// `key: [a, b]`, or a line for each item if that is too long at this indentation.
pub(super) fn list(key: &str, items: Vec<String>, indentation: usize) -> String {
    let line = format!("{key}: [{}]", items.join(", "));
    if indentation + line.chars().count() <= WIDTH {
        return line;
    }
    let items: Vec<String> = items.iter().map(|item| format!("\n  - {item}")).collect();
    format!("{key}:{}", items.concat())
}

/// `key: { a: b, c: d }`, or a line for each entry if that is too long at this indentation.
pub(super) fn map(key: &str, entries: Vec<(String, String)>, indentation: usize) -> String {
    let entries: Vec<String> = entries
        .into_iter()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    let line = format!("{key}: {{ {} }}", entries.join(", "));
    if indentation + line.chars().count() <= WIDTH {
        return line;
    }
    let entries: Vec<String> = entries.iter().map(|entry| format!("\n  {entry}")).collect();
    format!("{key}:{}", entries.concat())
}

/// Whether a YAML reader, of version 1.1 or 1.2, might take the plain word for no text.
fn is_another_type(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let number = text.replace('_', "");
    WORDS.contains(&text.to_ascii_lowercase().as_str())
        || number.parse::<f64>().is_ok()
        || ["0x", "0o", "0b"]
            .iter()
            .any(|prefix| number.starts_with(prefix))
        || text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
}

fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if is_safe(c) => quoted.push(c),
            c => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a character is one that YAML takes as it is and that neither breaks a line nor turns
/// the direction of text.
fn is_safe(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_yaml_needs_it() {
        for plain in [
            "db",
            "10.1.30.0/24",
            "a-b_c.d",
            "tcp/http",
            "sg-0abc",
            "3com",
            "1.2.3",
        ] {
            assert_eq!(scalar(plain), plain);
        }
        for (text, written) in [
            ("", "\"\""),
            ("8080", "\"8080\""),
            ("1.5", "\"1.5\""),
            ("1e5", "\"1e5\""),
            ("True", "\"True\""),
            ("no", "\"no\""),
            ("null", "\"null\""),
            ("0x1f", "\"0x1f\""),
            ("2026-12-01", "\"2026-12-01\""),
            ("fd00::/8", "\"fd00::/8\""),
            ("namespace:team", "\"namespace:team\""),
            ("-a", "\"-a\""),
            ("a, b", "\"a, b\""),
        ] {
            assert_eq!(scalar(text), written);
        }
        assert_eq!(sentence("CHG-1, jane debugs"), "CHG-1, jane debugs");
        assert_eq!(sentence("why: \"so\"\n"), "\"why: \\\"so\\\"\\U0000000A\"");
        assert_eq!(sentence("a #b"), "\"a #b\"");
    }
}
