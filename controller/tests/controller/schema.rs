//! The label schema: which labels make identity, and which a token can have.

use policy::{PeerMatch, Revision};
use proto::v1;
use tonic::Code;

use crate::site::{POLICY, Site, token_for};

/// The policy, and a schema of one key.
fn with_schema(keys: &str) -> String {
    format!("{POLICY}---\napiVersion: bulkhead/v1\nkind: LabelSchema\nname: labels\nkeys: {keys}\n")
}

fn token(labels: &[(&str, &str)]) -> v1::CreateTokenRequest {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    v1::CreateTokenRequest {
        labels: labels.iter().map(owned).collect(),
        ..token_for("web")
    }
}

#[tokio::test]
async fn only_labels_of_the_schema_make_identity_and_all_are_shown() {
    let mut site = Site::new().await;
    let one = site.token(token(&[("tier", "web"), ("rack", "1")])).await;
    let two = site.token(token(&[("tier", "web"), ("rack", "2")])).await;
    site.try_enrol(&one, "web-1").await.unwrap();
    site.try_enrol(&two, "web-2").await.unwrap();
    let db = site.enrol("db-1", "db").await;
    let mut stream = db.connect(&site, &[]).await;
    site.apply(POLICY).await;
    let identities = |hosts: Vec<v1::HostStatus>| {
        let named = |host: v1::HostStatus| (host.name, host.identity);
        hosts.into_iter().map(named).collect::<Vec<_>>()
    };
    let before = identities(site.hosts().await);
    assert_ne!(before[1].1, before[2].1);
    let peers = |policy: &policy::HostPolicy| {
        let allow = policy.rules.iter().find(|rule| !rule.ports.is_empty());
        match &allow.unwrap().peers {
            PeerMatch::Of { identities, .. } => identities.len(),
            PeerMatch::Any => panic!("web is not everybody"),
        }
    };
    let (policy, _) = stream
        .apply_until(|policy| policy.revision == Revision(1))
        .await;
    assert_eq!(peers(&policy), 2);

    let dry = with_schema("{ tier: any }");
    site.apply_files(&[("policy.yaml", &dry)], true).await;
    assert_eq!(identities(site.hosts().await), before);

    let answer = site.apply(&dry).await;
    assert_eq!((answer.revision, answer.problems), (2, Vec::new()));
    let (policy, _) = stream
        .apply_until(|policy| policy.revision == Revision(2))
        .await;
    assert_eq!(peers(&policy), 1);
    let after = identities(site.hosts().await);
    assert_eq!(after[1].1, after[2].1);
    assert_eq!(site.host("web-2").await.labels["rack"], "2");
    site.restart().await;
    assert_eq!(identities(site.hosts().await), after);

    // Without the schema the labels mean again what they meant.
    site.apply(POLICY).await;
    assert_eq!(identities(site.hosts().await), before);
}

#[tokio::test]
async fn a_token_with_labels_outside_the_schema_is_refused() {
    let site = Site::new().await;
    let old = site.token(token_for("staging")).await;
    let problems = site
        .apply(&with_schema("{ tier: [web, db] }"))
        .await
        .problems;
    assert_eq!(problems, Vec::<String>::new());
    for (labels, why) in [
        (
            [("tier", "staging")],
            "does not allow `staging` for `tier`; it allows `db`, `web`",
        ),
        ([("rack", "1")], "has no key `rack`; its keys are `tier`"),
    ] {
        let refused = site.operator().await.create_token(token(&labels)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(why), "{}", refused.message());
    }
    let refused = site.try_enrol(&old, "web-1").await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for words in ["`staging` for `tier`", "`bulkhead token create`"] {
        assert!(refused.message().contains(words), "{}", refused.message());
    }
    site.enrol("web-1", "web").await;
}
