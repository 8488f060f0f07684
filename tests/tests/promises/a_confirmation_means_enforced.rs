//! "Confirmed" is said of hosts that enforce the change, and of no other: an operator who reads it may
//! go home.

use anyhow::{Context, Result, ensure};
use lab::{HostSpec, LONG, Lab, wait_for};
use serde_json::Value;

use crate::policies::policy;

const HOSTS: [HostSpec; 3] = [HostSpec::WEB, HostSpec::APP, HostSpec::DB];

/// Every line that `bulkhead hosts` prints for programs.
fn hosts(lab: &Lab) -> Result<Vec<Value>> {
    lab.operator().list(&["hosts"])
}

fn wait_standing(lab: &Lab, name: &str, word: &str) -> Result<()> {
    wait_for(&format!("{name} to be {word}"), LONG, || {
        let is_it = |host: &Value| host["name"] == name && host["standing"] == word;
        Ok(hosts(lab)?.iter().any(is_it).then_some(()))
    })
    .with_context(|| format!("{:#?}", hosts(lab)))
}

#[test]
fn a_host_that_polices_nothing_confirms_nothing_and_each_state_has_a_word_of_its_own() -> Result<()>
{
    Lab::run_bare(&HOSTS, |lab| {
        // As on a machine whose card has another name than the configuration says.
        lab.agent("db-1")?.configure(|config| {
            config.insert("interfaces".to_owned(), vec!["ens3"].into());
        })?;
        lab.enrol(&HOSTS[..2])?;
        let token = lab.create_token(&HostSpec::DB)?;
        lab.agent("db-1")?.give_token(&token)?;
        lab.agent("db-1")?.daemon().start()?;
        wait_standing(lab, "db-1", "polices-nothing")?;

        let file = lab.write_policy(&policy(&[
            "appliesTo: [web, db], ingress: [{ allow: [tcp/8080] }]",
        ]))?;
        let file = file.display().to_string();
        let applied = lab.operator().run(&["policy", "apply", &file])?;
        let applied = applied.refused(
            1,
            &[
                "confirmed by 2 of 3 connected hosts: app-1, web-1\n",
                "NOT PROTECTED: db-1: it polices no interface",
                "ens3",
                "open, as no policy that is enforced selects them (1 of 3 hosts): app-1\n",
            ],
        )?;
        ensure!(!applied.stdout.contains("refused by db-1"), "{applied:?}");
        wait_standing(lab, "web-1", "enforced")?;
        wait_standing(lab, "app-1", "not-selected")?;
        wait_standing(lab, "db-1", "polices-nothing")?;
        let in_sync: Vec<bool> = hosts(lab)?
            .iter()
            .map(|host| host["in_sync"] == true)
            .collect();
        // By name: app-1, db-1, web-1.
        ensure!(in_sync == [true, false, true], "{in_sync:?}");
        let table = lab.operator().run(&["hosts"])?.fine()?.stdout;
        for words in [
            "NOT PROTECTED: polices no interface",
            "no policy selects it",
            "enforced",
        ] {
            ensure!(table.contains(words), "{table}");
        }

        let cut = lab
            .operator()
            .run(&["quarantine", "db-1", "--reason", "a test of it"])?;
        cut.refused(1, &["db-1 itself does NOT enforce it", "its peers act now"])?;

        // A host that is away confirms nothing either, and its row stays as it was.
        lab.agent("web-1")?.daemon().kill_9()?;
        wait_for("web-1 to be away", LONG, || {
            let away = lab.host_status("web-1")?.is_some_and(|it| !it.connected);
            Ok(away.then_some(()))
        })?;
        let revision = |lab: &Lab| -> Result<u64> {
            let status = lab.host_status("web-1")?.context("web-1 is gone")?;
            ensure!(!status.in_sync, "{status:?}");
            Ok(status.applied_revision)
        };
        let before = revision(lab)?;
        lab.operator()
            .run(&["policy", "apply", "--no-wait", &file])?
            .fine()?;
        ensure!(
            revision(lab)? == before,
            "a host that is away took a revision"
        );
        Ok(())
    })
}
