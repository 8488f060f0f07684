//! Rules that end at a moment: which are in force, and when that changes. Pure.

use std::time::Duration;

use policy::{HostPolicy, Timestamp};

/// The last end at or before a moment; none: nothing has ended. Of one policy it says exactly
/// which rules are in force.
#[must_use]
pub fn last_end(policy: &HostPolicy, now: Timestamp) -> Option<Timestamp> {
    ends(policy).filter(|end| *end <= now).max()
}

/// How long it is, from this time since the Unix epoch, to the next end; none: nothing ends.
#[must_use]
pub fn until_next_end(policy: &HostPolicy, now: Duration) -> Option<Duration> {
    ends(policy)
        .map(|Timestamp(seconds)| Duration::from_secs(seconds))
        .filter(|end| *end > now)
        .min()
        .map(|end| end - now)
}

/// Takes out what has ended at a moment.
pub fn leave_out_ended(policy: &mut HostPolicy, now: Timestamp) {
    policy
        .rules
        .retain(|rule| rule.expires.is_none_or(|end| now < end));
}

/// The names of what has ended at a moment and had not at an earlier one, each once.
#[must_use]
pub fn ended_since(
    policy: &HostPolicy,
    before: Option<Timestamp>,
    now: Option<Timestamp>,
) -> Vec<&str> {
    let mut names: Vec<&str> = policy
        .rules
        .iter()
        .filter(|rule| {
            rule.expires
                .is_some_and(|end| Some(end) > before && Some(end) <= now)
        })
        .map(|rule| rule.origin.rule.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn ends(policy: &HostPolicy) -> impl Iterator<Item = Timestamp> {
    policy.rules.iter().filter_map(|rule| rule.expires)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::{Action, Origin, Rule, Tier};

    use super::*;
    use crate::enforcement::bootstrap_policy;

    /// A policy with exceptions until 10 and 20, in this order, above what the bootstrap policy says.
    fn policy() -> HostPolicy {
        let mut policy = bootstrap_policy();
        let exceptions = [("until-20", 20), ("until-10", 10)].map(|(name, end)| Rule {
            tier: Tier::Exception,
            action: Action::Allow,
            expires: Some(Timestamp(end)),
            origin: Arc::new(Origin::unwritten(name)),
            ..policy.rules[0].clone()
        });
        policy.rules.splice(0..0, exceptions);
        policy
    }

    #[test]
    fn a_rule_is_in_force_up_to_its_end_and_not_at_it() {
        let in_force = |now| {
            let mut policy = policy();
            leave_out_ended(&mut policy, Timestamp(now));
            policy.check().map(|()| policy.rules.len())
        };
        assert_eq!([9, 10, 19, 20].map(in_force), [Ok(4), Ok(3), Ok(3), Ok(2)]);
    }

    #[test]
    fn the_last_end_tells_which_rules_are_in_force() {
        let last = |now| last_end(&policy(), Timestamp(now)).map(|end| end.0);
        assert_eq!(
            [9, 10, 19, 20, 99].map(last),
            [None, Some(10), Some(10), Some(20), Some(20)]
        );
        assert_eq!(last_end(&bootstrap_policy(), Timestamp(99)), None);
    }

    #[test]
    fn the_next_end_is_awaited_to_the_second() {
        let until = |now| until_next_end(&policy(), Duration::from_millis(now));
        assert_eq!(until(9_750), Some(Duration::from_millis(250)));
        assert_eq!(until(10_000), Some(Duration::from_secs(10)));
        assert_eq!(until(20_000), None);
    }

    #[test]
    fn what_has_ended_is_named_once() {
        let policy = policy();
        let named = |before, now| ended_since(&policy, before, now).join(" ");
        let [ten, twenty] = [10, 20].map(|end| Some(Timestamp(end)));
        assert_eq!(named(None, None), "");
        assert_eq!(named(None, twenty), "until-10 until-20");
        assert_eq!(named(ten, twenty), "until-20");
        assert_eq!(named(twenty, twenty), "");
    }
}
