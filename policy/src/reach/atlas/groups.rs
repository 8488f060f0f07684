//! Classes split by the rules that speak of them.

use std::collections::HashMap;

use crate::reach::{atlas::RulePorts, rulebook::count};

/// Classes that the same rules speak of, so far.
#[derive(Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    /// The group of each class that some rule speaks of.
    group_of: HashMap<u32, u32>,
    /// What a group becomes where a rule with some profile's ports speaks of it.
    splits: HashMap<(Option<u32>, u32, u32), u32>,
}

struct Group {
    /// As it was before its last rule.
    before: Option<u32>,
    rule: u32,
    ports: RulePorts,
}

impl Groups {
    /// A rule, with the ports that a profile gives it, speaks of a class.
    pub fn split(&mut self, class: u32, rule: u32, profile: u32, ports: &RulePorts) {
        let before = self.group_of.get(&class).copied();
        let next = count(self.groups.len());
        let group = *self
            .splits
            .entry((before, rule, profile))
            .or_insert_with(|| {
                self.groups.push(Group {
                    before,
                    rule,
                    ports: ports.clone(),
                });
                next
            });
        self.group_of.insert(class, group);
    }

    /// The group of each class that some rule speaks of.
    pub fn of_class(&self) -> impl Iterator<Item = (u32, u32)> {
        self.group_of.iter().map(|(class, group)| (*class, *group))
    }

    /// The rules that speak of a group, the last one first.
    pub fn speaking(&self, group: u32) -> Vec<(u32, RulePorts)> {
        let mut rules = Vec::new();
        let mut next = Some(group);
        while let Some(group) = next {
            let Group {
                before,
                rule,
                ports,
            } = &self.groups[group as usize];
            rules.push((*rule, ports.clone()));
            next = *before;
        }
        rules
    }
}
