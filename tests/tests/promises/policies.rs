//! Policy texts that several scenarios share.

/// The three tiers by label, each a segment of its own.
const SEGMENTS: &str = "\
{ apiVersion: bulkhead/v1, kind: Segment, name: web, match: { tier: web } }
---
{ apiVersion: bulkhead/v1, kind: Segment, name: app, match: { tier: app } }
---
{ apiVersion: bulkhead/v1, kind: Segment, name: db, match: { tier: db } }
";

/// The segments, and one policy for each of these bodies: the fields behind its name.
pub fn policy(bodies: &[&str]) -> String {
    let mut text = SEGMENTS.to_owned();
    for (number, body) in bodies.iter().enumerate() {
        text.push_str(&format!(
            "---\n{{ apiVersion: bulkhead/v1, kind: Policy, name: policy-{number}, {body} }}\n"
        ));
    }
    text
}

/// `app` takes these, in any order of families and protocols, from `web` and from nobody else.
pub fn app_takes_from_web(ports: &str) -> String {
    policy(&[&format!(
        "appliesTo: app, ingress: [{{ from: [web], allow: [{ports}] }}]"
    )])
}
