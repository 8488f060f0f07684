//! Exceptions as authors write them.

use crate::{
    parse::{
        collector::{Collector, quote},
        document::ordered,
        fields::{Fields, Word, word},
        ports::PortWord,
        values,
        yaml::Node,
    },
    words::Timestamp,
};

/// Characters of an owner or a reason.
const MAX_TEXT: usize = 1_000;

pub(crate) struct ExceptionDocument {
    pub name: Word,
    pub owner: String,
    pub reason: String,
    pub expires: Timestamp,
    pub from: Vec<Word>,
    pub to: Vec<Word>,
    /// None: any port.
    pub ports: Option<Vec<PortWord>>,
}

pub(super) fn read(node: &Node, problems: &mut Collector<'_>) -> Option<ExceptionDocument> {
    let what = "an Exception";
    let known = [
        "apiVersion",
        "kind",
        "name",
        "owner",
        "reason",
        "expires",
        "from",
        "to",
        "ports",
    ];
    let help = |field: &str| match field {
        "allow" => Some("its ports are in `ports`".to_owned()),
        "appliesTo" => Some("its segments are in `from` and `to`".to_owned()),
        _ => None,
    };
    let fields = Fields::read_with_help(node, what, &known, help, problems)?;
    let name = values::name(&fields, what, problems);
    let mut text = |name: &str| {
        let field = fields.require(name, what, problems)?;
        let word = word(field.node, &format!("`{name}`"), problems)?;
        let problem = match word.text.trim() {
            "" => "is empty".to_owned(),
            text if text.chars().nth(MAX_TEXT).is_some() => {
                format!("has more than {MAX_TEXT} characters")
            }
            // Such as would colour or clear the terminal that shows it.
            text if text.chars().any(|it| it.is_control() && it != '\n') => {
                "has control characters".to_owned()
            }
            _ => return Some(word),
        };
        problems.report(word.place, format!("`{name}` {problem}"));
        None
    };
    let (owner, reason) = (text("owner"), text("reason"));
    let expires = text("expires");
    let expires = expires.and_then(|word| moment(&word, problems));
    let mut segments = |name: &str| {
        let field = fields.require(name, what, problems);
        field
            .map(|field| values::segments(field.node, &format!("`{name}`"), problems))
            .unwrap_or_default()
    };
    let (from, to) = (segments("from"), segments("to"));
    Some(ExceptionDocument {
        ports: ordered::ports(&fields, problems),
        name: name?,
        // Without one of these, which is reported, the rest may be wrong too.
        owner: owner.map(|word| word.text).unwrap_or_default(),
        reason: reason.map(|word| word.text).unwrap_or_default(),
        expires: expires.unwrap_or_default(),
        from,
        to,
    })
}

fn moment(word: &Word, problems: &mut Collector<'_>) -> Option<Timestamp> {
    let moment = rfc3339(&word.text);
    if moment.is_none() {
        problems.report_help(
            word.place,
            format!("{} is not a date and time", quote(&word.text)),
            "write a day that exists, the time and its offset: 2026-12-01T00:00:00Z or \
             2026-12-01T01:00:00+01:00"
                .to_owned(),
        );
    }
    moment
}

/// A date and time of RFC 3339 with whole seconds, from 1970 on.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let (time, sign, offset) = match rest.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 1, "00:00"),
        None => {
            let at = rest.rfind(['+', '-'])?;
            let sign = if rest.as_bytes()[at] == b'-' { -1 } else { 1 };
            (&rest[..at], sign, &rest[at + 1..])
        }
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let [offset_hour, offset_minute] = numbers(offset, ':', [2, 2])?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && offset_hour < 24
        && offset_minute < 60;
    if !in_range {
        return None;
    }
    let days =
        days_before(year) + (1..month).map(|month| days_of(year, month)).sum::<i64>() + day - 1;
    let local = (days * 24 + hour) * 3600 + minute * 60 + second;
    let utc = local - sign * (offset_hour * 3600 + offset_minute * 60);
    u64::try_from(utc).ok().map(Timestamp)
}

/// Numbers of fixed widths with a separator between.
fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next()?;
        let well_written = part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = well_written.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first day of a year.
const fn days_before(year: i64) -> i64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400;
    (year - 1970) * 365 + leap_days - 477
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_rfc_3339() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T01:00:00+01:00", 0),
            ("2000-02-29T23:59:59z", 951_868_799),
            ("2026-12-01T00:00:00Z", 1_796_083_200),
            ("2026-11-30T19:00:00-05:00", 1_796_083_200),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(rfc3339(text), Some(Timestamp(seconds)), "{text}");
        }
        for text in [
            "2026-12-01",
            "2026-12-01T00:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-12-01T24:00:00Z",
            "2026-12-01T00:00:60Z",
            "2026-12-01T00:00:00.5Z",
            "2026-12-1T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-12-01T00:00:00+1:00",
            "2026-12-01T00:00:00+",
            "",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }
}
