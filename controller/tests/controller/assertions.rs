//! Assertions stop an apply, decided for the hosts that there are.

use crate::site::{POLICY, Site};

/// What [`POLICY`] does not keep, once both hosts are there.
pub const NEVER: &str = "\
---
apiVersion: bulkhead/v1
kind: Assertion
name: web-stays-away
never: { from: web, to: db, service: tcp/5432 }
";
const ALWAYS: &str = "\
---
apiVersion: bulkhead/v1
kind: Assertion
name: web-works
always: { from: web, to: db, service: tcp/5432 }
";
const NOT_SSH: &str = "\
---
apiVersion: bulkhead/v1
kind: Assertion
name: no-ssh
never: { from: web, to: db, service: tcp/22 }
";

fn ssh_until(moment: &str) -> String {
    format!(
        "---\napiVersion: bulkhead/v1\nkind: Exception\nname: debugging\nowner: ann\n\
         reason: CHG-1\nexpires: {moment}\nfrom: [web]\nto: [db]\nports: [tcp/22]\n"
    )
}

async fn site() -> Site {
    let site = Site::new().await;
    for (name, tier, address) in [("web-1", "web", "10.1.0.1"), ("db-1", "db", "10.2.0.1")] {
        let host = site.enrol(name, tier).await;
        host.connect(&site, &[address]).await.policy().await;
        site.host_when(name, |host| !host.addresses.is_empty())
            .await;
    }
    site
}

#[tokio::test]
async fn one_that_fails_stops_an_apply_and_shows_the_flow() {
    let site = site().await;
    let answer = site.apply(&format!("{POLICY}{ALWAYS}")).await;
    assert_eq!((answer.revision, answer.problems), (1, Vec::new()));

    let wrong = format!("{POLICY}{ALWAYS}{NEVER}");
    for dry_run in [true, false] {
        let answer = site.apply_files(&[("policy.yaml", &wrong)], dry_run).await;
        assert_eq!(
            (answer.revision, answer.problems.len()),
            (1, 1),
            "{answer:?}"
        );
        let problem = &answer.problems[0];
        for word in [
            "policy.yaml:27: ",
            "`web-stays-away`",
            "web-1 (10.1.0.1)",
            "db-1 (10.2.0.1)",
            "tcp/5432",
            "db-ingress/ingress[0] (policy.yaml:",
        ] {
            assert!(problem.contains(word), "{word}: {problem}");
        }
    }
    assert_eq!(site.status().await.assertions, 1);

    // The promise that web works is not kept by a policy that forgets it.
    let shut = POLICY.replace("tcp/5432", "tcp/5433");
    let answer = site.apply(&format!("{shut}{ALWAYS}")).await;
    assert_eq!((answer.revision, answer.problems.len()), (1, 1));
    assert!(answer.problems[0].contains("cannot reach"), "{answer:?}");
}

#[tokio::test]
async fn an_exception_counts_until_it_ends() {
    let site = site().await;
    let [ended, lasts] = ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"].map(ssh_until);
    let answer = site.apply(&format!("{POLICY}{lasts}{NOT_SSH}")).await;
    assert_eq!((answer.revision, answer.problems.len()), (0, 1));
    assert!(answer.problems[0].contains("debugging"), "{answer:?}");

    let answer = site.apply(&format!("{POLICY}{ended}{NOT_SSH}")).await;
    assert_eq!((answer.revision, answer.problems), (1, Vec::new()));
    let status = site.status().await;
    assert_eq!((status.exceptions, status.exceptions_ended), (1, 1));
}
