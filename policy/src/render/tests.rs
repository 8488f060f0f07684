use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::{SideVerdict, evaluate},
    parse::parse,
    source::SourceFile,
    testing,
};

fn reparsed(set: &PolicySet) -> PolicySet {
    let text = policies(set);
    let file = SourceFile {
        path: "rendered.yaml".to_owned(),
        content: text.clone(),
    };
    parse(&[file]).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The effects and tiers of a side; its origins are other files.
fn effects(side: &SideVerdict) -> impl PartialEq + std::fmt::Debug + use<> {
    [&side.enforced, &side.staged].map(|evidence| (evidence.effect, evidence.tier))
}

proptest! {
    #[test]
    fn what_is_rendered_parses_back_to_the_same_meaning(scenario in testing::scenario()) {
        let set = reparsed(&scenario.set);
        for flow in &scenario.flows {
            let before = evaluate(&scenario.set, &scenario.inventory, flow);
            let after = evaluate(&set, &scenario.inventory, flow);
            prop_assert_eq!(effects(&before.egress), effects(&after.egress));
            prop_assert_eq!(effects(&before.ingress), effects(&after.ingress));
        }
        // What is tidy is written as it is, up to the place of each line.
        let text = |set: &PolicySet| {
            let lines = policies(set);
            let lines = lines.lines().map(|line| line.split('#').next().unwrap_or_default().trim_end().to_owned());
            lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
        };
        prop_assert_eq!(text(&scenario.set), text(&set));
    }

    #[test]
    fn an_inventory_that_is_rendered_parses_back(inventory in testing::inventory()) {
        let content = super::inventory(&inventory);
        let file = SourceFile { path: "hosts.yaml".to_owned(), content };
        let parsed = Inventory::parse(&file).unwrap_or_else(|problems| panic!("{problems}\n{}", file.content));
        prop_assert_eq!(inventory, parsed);
    }
}
