//! Labels, and whether the label schema in force knows them.

use policy::{Labels, inventory::is_reserved_label, set::LabelSchema};

/// At most this many words are offered in place of one that is not known.
const MOST: usize = 12;

/// Why a host cannot be given these labels, with what it can be given; none: it can.
pub fn objection(schema: Option<&LabelSchema>, labels: &Labels) -> Option<String> {
    let keys = &schema?.keys;
    let objections: Vec<String> = labels
        .iter()
        .filter(|(key, _)| !is_reserved_label(key))
        .filter_map(|(key, value)| match keys.get(key) {
            None => Some(format!(
                "the label schema has no key `{key}`; its keys are {}",
                words(keys.keys())
            )),
            Some(Some(values)) if !values.contains(value) => Some(format!(
                "the label schema does not allow `{value}` for `{key}`; it allows {}",
                words(values)
            )),
            Some(_) => None,
        })
        .collect();
    (!objections.is_empty()).then(|| objections.join("; "))
}

fn words<'a>(all: impl IntoIterator<Item = &'a String, IntoIter: ExactSizeIterator>) -> String {
    let all = all.into_iter();
    let others = all.len().saturating_sub(MOST);
    let mut text = all
        .take(MOST)
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if others > 0 {
        text.push_str(&format!(" and {others} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> Labels {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        list.iter().map(owned).collect()
    }

    fn schema() -> LabelSchema {
        let env = ["dev", "prod"].map(str::to_owned).into();
        LabelSchema {
            keys: [("env".to_owned(), Some(env)), ("team".to_owned(), None)].into(),
        }
    }

    #[test]
    fn what_the_schema_knows_can_be_given() {
        let schema = schema();
        for known in [
            labels(&[]),
            labels(&[("env", "dev"), ("team", "anything")]),
            labels(&[("port:tcp/http", "8080")]),
        ] {
            assert_eq!(objection(Some(&schema), &known), None, "{known:?}");
        }
        assert_eq!(objection(None, &labels(&[("what", "ever")])), None);
    }

    #[test]
    fn what_it_does_not_know_is_told_with_what_it_does() {
        let objection = objection(Some(&schema()), &labels(&[("env", "test"), ("teem", "a")]));
        assert_eq!(
            objection.as_deref(),
            Some(
                "the label schema does not allow `test` for `env`; it allows `dev`, `prod`; \
                 the label schema has no key `teem`; its keys are `env`, `team`"
            )
        );
    }
}
