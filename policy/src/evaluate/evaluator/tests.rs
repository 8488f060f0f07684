//! Fast answers are the reference's answers.

use proptest::prelude::*;

use super::*;
use crate::{
    evaluate::query::answer,
    testing::{Scenario, scenario},
};

/// Each end by its name where it has one that stands for its address, and by address.
fn queries(scenario: &Scenario) -> Vec<Query> {
    let name = |address: IpAddr| {
        let holder = scenario.inventory.holder(address);
        holder.map_or_else(|| address.to_string(), |host| host.name.0.clone())
    };
    let mut queries = Vec::new();
    for Flow {
        source,
        destination,
        port: PortKey { slot, key },
    } in &scenario.flows
    {
        let has_ports = ["tcp", "udp", "sctp"].contains(&&*slot.to_string());
        let protocol = match slot.to_string().as_str() {
            "icmp" | "icmpv6" => format!("{slot}/{}/{}", key >> 8, key & 255),
            "protocol" => format!("{slot}/{key}"),
            named => named.to_owned(),
        };
        for (src, dst) in [
            (source.to_string(), destination.to_string()),
            (name(*source), destination.to_string()),
            (name(*source), name(*destination)),
            (name(*source), source.to_string()),
            ("nobody".to_owned(), destination.to_string()),
        ] {
            queries.push(Query {
                src,
                dst,
                protocol: protocol.clone(),
                port: has_ports.then_some(*key),
            });
        }
    }
    queries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_the_reference_s(scenario in scenario()) {
        let evaluator = Evaluator::new(&scenario.set, &scenario.inventory);
        for query in queries(&scenario) {
            prop_assert_eq!(
                evaluator.answer(query.clone()),
                answer(&scenario.set, &scenario.inventory, &query),
                "{:?}", query
            );
        }
    }
}
