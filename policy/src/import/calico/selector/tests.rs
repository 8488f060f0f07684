#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::inventory::Labels;

fn read(text: &str) -> Expression {
    parse(text).map_err(|mistake| mistake.message).unwrap()
}

fn selectors(text: &str) -> Vec<String> {
    let found = alternatives(&read(text), false).unwrap();
    found.iter().map(ToString::to_string).collect()
}

fn mistake(text: &str) -> String {
    parse(text).err().unwrap().message
}

#[test]
fn expressions_become_selectors() {
    for (text, expected) in [
        ("", vec!["{  }"]),
        ("all()", vec!["{  }"]),
        ("!all()", vec![]),
        ("role == 'db'", vec!["{ role: db }"]),
        ("role==\"db\"", vec!["{ role: db }"]),
        ("role != 'db'", vec!["{ role: { not: db } }"]),
        ("role in { 'a', 'b' }", vec!["{ role: [a, b] }"]),
        ("role not in {'a','b'}", vec!["{ role: { not: [a, b] } }"]),
        ("role in {}", vec![]),
        ("role not in {}", vec!["{  }"]),
        ("has(role)", vec!["{ role: { exists: true } }"]),
        ("!has(role)", vec!["{ role: { exists: false } }"]),
        ("!(role == 'db')", vec!["{ role: { not: db } }"]),
        ("inside == 'x'", vec!["{ inside: x }"]),
        (
            "global()",
            vec!["{ projectcalico.org/namespace: { exists: false } }"],
        ),
        ("a == 'x' && b == 'y'", vec!["{ a: x, b: y }"]),
        ("a == 'x' || b == 'y'", vec!["{ a: x }", "{ b: y }"]),
        ("a == 'x' || all()", vec!["{  }"]),
        ("a == 'x' && a == 'y'", vec![]),
        (
            "a == 'x' && (b == 'y' || b == 'z')",
            vec!["{ a: x, b: y }", "{ a: x, b: z }"],
        ),
        (
            "!(a == 'x' && has(b))",
            vec!["{ a: { not: x } }", "{ b: { exists: false } }"],
        ),
        (
            "!(a == 'x' || has(b))",
            vec!["{ a: { not: x }, b: { exists: false } }"],
        ),
        (
            "a == 'x' || b == 'y' && c == 'z'",
            vec!["{ a: x }", "{ b: y, c: z }"],
        ),
        (
            "has(a) && a != 'x'",
            vec!["{ a: { not: x }, a: { exists: true } }"],
        ),
    ] {
        assert_eq!(selectors(text), expected, "{text}");
    }
}

#[test]
fn what_cannot_be_read_or_said_is_named() {
    for (text, expected) in [
        ("name contains 'x'", "`contains` cannot be expressed"),
        ("name starts with 'x'", "`starts with` cannot be expressed"),
        ("name ends with 'x'", "`ends with` cannot be expressed"),
        ("role = 'db'", "it goes on with `= \\'db\\'`"),
        ("role == db", "where a quoted value is expected"),
        ("role == 'db", "a quotation does not end"),
        ("role == 'd b'", "`d b` is not a label's value"),
        (
            "role == 'db' role",
            "where `&&`, `||` or the end is expected",
        ),
        ("any()", "a selector has no function `any`"),
        ("(role == 'db'", "it ends where `)` is expected"),
        ("-x == 'db'", "`-x` is not a label's key"),
    ] {
        let found = mistake(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn an_expression_that_is_too_large_is_refused() {
    let deep = format!("{}all(){}", "(".repeat(100), ")".repeat(100));
    assert!(mistake(&deep).contains("nested more than 32 deep"));
    let negated = format!("{}all()", "!".repeat(1_000));
    assert!(mistake(&negated).contains("nested more than 32 deep"));
    let long = format!("all(){}", " && has(a)".repeat(1_000));
    assert!(mistake(&long).contains("longer than"));
    let pairs: Vec<String> = (0..200)
        .map(|n| format!("(a{n} == 'x' || b{n} == 'y')"))
        .collect();
    assert_eq!(alternatives(&read(&pairs.join(" && ")), false), None);
}

/// What an expression says of labels, straight from its definition.
fn holds(expression: &Expression, labels: &Labels) -> bool {
    match expression {
        Expression::All => true,
        Expression::Test(key, test) => match (test, labels.get(key)) {
            (Test::In(values), value) => value.is_some_and(|value| values.contains(value)),
            (Test::NotIn(values), value) => !value.is_some_and(|value| values.contains(value)),
            (Test::Exists, value) => value.is_some(),
            (Test::DoesNotExist, value) => value.is_none(),
        },
        Expression::Not(inner) => !holds(inner, labels),
        Expression::And(parts) => parts.iter().all(|part| holds(part, labels)),
        Expression::Or(parts) => parts.iter().any(|part| holds(part, labels)),
    }
}

proptest::proptest! {
    #[test]
    fn the_segments_mean_what_the_expression_means(
        words in proptest::collection::vec((0usize..8, 0usize..3, 0usize..3), 1..8),
        (first, second) in (0usize..4, 0usize..4),
    ) {
        let (keys, values) = (["a", "b", "c"], ["x", "y", "z"]);
        let mut text = String::new();
        for (index, (shape, key, value)) in words.iter().enumerate() {
            let (key, value) = (keys[*key], values[*value]);
            let test = match shape % 4 {
                0 => format!("{key} == '{value}'"),
                1 => format!("{key} != '{value}'"),
                2 => format!("has({key})"),
                _ => format!("{key} not in {{ 'x', '{value}' }}"),
            };
            let part = if *shape >= 4 { format!("!({test} && has(c))") } else { test };
            let join = match (index, shape % 2) {
                (0, _) => "",
                (_, 0) => " && ",
                _ => " || ",
            };
            text = if index % 3 == 2 {
                format!("({text}){join}{part}")
            } else {
                format!("{text}{join}{part}")
            };
        }
        let expression = read(&text);
        let found = alternatives(&expression, false).unwrap();
        let mut labels = Labels::new();
        for (key, value) in [("a", first), ("b", second), ("c", (first + second) % 4)] {
            labels.extend(values.get(value).map(|value| (key.to_owned(), (*value).to_owned())));
        }
        let any = found
            .iter()
            .any(|selector| selector.requirements.is_empty() || selector.matches(&labels));
        proptest::prop_assert_eq!(any, holds(&expression, &labels), "{} on {:?}", text, labels);
    }
}
