//! The program: its exit codes and its signals.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    assertions::NEVER,
    site::{POLICY, Site},
};

fn controller(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-controller"));
    command.args(arguments).env_remove("BULKHEAD_LOG");
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = controller(arguments).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A controller as a process, once it serves.
fn serve(site: &Site) -> Child {
    let mut child = controller(&[
        "serve",
        "--data-dir",
        text(&site.options.data_dir),
        "--listen",
        "127.0.0.1:0",
    ])
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
    }
    child.stderr = Some(log.into_inner());
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[tokio::test]
async fn sigterm_ends_it_in_good_order() {
    let site = Site::stopped().await;
    let mut child = serve(&site);
    signal(&child, Signal::TERM);
    assert!(child.wait().unwrap().success());
}

/// Their default is an end without a word.
#[tokio::test]
async fn sighup_reloads_and_sigusr1_and_sigusr2_end_nothing() {
    let site = Site::stopped().await;
    let mut child = serve(&site);
    let mut log = BufReader::new(child.stderr.take().unwrap());
    for (sent, word) in [
        (Signal::USR1, "SIGUSR1 means nothing"),
        (Signal::USR2, "SIGUSR2 means nothing"),
        (Signal::HUP, "addresses are read again"),
    ] {
        signal(&child, sent);
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
        }
    }
    signal(&child, Signal::TERM);
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
}

#[tokio::test]
async fn two_controllers_on_one_directory_are_refused() {
    let site = Site::stopped().await;
    let mut child = serve(&site);
    let (code, said) = run(&["serve", "--data-dir", text(&site.options.data_dir)]);
    assert_eq!(code, Some(78));
    assert!(said.contains("another controller is running"), "{said}");
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    // What it wrote is whole, though nobody closed it.
    let mut child = serve(&site);
    signal(&child, Signal::INT);
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_directory_that_is_not_one_of_a_controller_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = run(&["serve", "--data-dir", text(dir.path())]);
    assert_eq!(code, Some(78));
    assert!(
        said.contains("run `bulkhead-controller init` first"),
        "{said}"
    );

    let site = Site::stopped().await;
    std::fs::write(
        site.options.data_dir.join("bulkhead.db"),
        "garbage ".repeat(1000),
    )
    .unwrap();
    let (code, said) = run(&["serve", "--data-dir", text(&site.options.data_dir)]);
    assert_eq!(code, Some(78));
    assert!(said.contains("is not a store"), "{said}");
}

#[test]
fn bad_usage_is_64_and_help_is_0() {
    for arguments in [
        &["serve"][..],
        &["srve"],
        &[],
        &["serve", "--data-dir", "x", "--store", "y"],
    ] {
        assert_eq!(run(arguments).0, Some(64), "{arguments:?}");
    }
    let mut help = controller(&["init", "--help"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    help.stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(help.wait().unwrap().success());
    for file in [
        "ca.pem",
        "ca.key",
        "controller.pem",
        "controller.key",
        "bulkhead.db",
    ] {
        assert!(text.contains(file), "{file} in {text}");
    }
}

#[test]
fn init_prints_the_operators_file_and_refuses_to_do_it_twice() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let arguments = ["init", "--data-dir", text(&data), "--operator", "bob"];
    let output = controller(&arguments).output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.trim(), text(&data.join("operator-bob.toml")));
    // What to do next, and the trap.
    let said = String::from_utf8(output.stderr).unwrap();
    for words in [
        "Only this machine can reach",
        "--address HOST:PORT",
        "export BULKHEAD_OPERATOR=",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let (code, said) = run(&arguments);
    assert_eq!(code, Some(78));
    assert!(said.contains("has a CA already"), "{said}");
}

#[tokio::test]
async fn an_assertion_that_hosts_make_fail_is_told_of_and_the_policy_stays() {
    let mut site = Site::new().await;
    // Nobody is there of whom it speaks.
    let answer = site.apply(&format!("{POLICY}{NEVER}")).await;
    assert_eq!((answer.revision, answer.problems), (1, Vec::new()));
    for (name, tier, address) in [("web-1", "web", "10.1.0.1"), ("db-1", "db", "10.2.0.1")] {
        let host = site.enrol(name, tier).await;
        host.connect(&site, &[address]).await.policy().await;
        let has = |host: &proto::v1::HostStatus| !host.addresses.is_empty();
        site.host_when(name, has).await;
    }
    site.stop().await;

    let mut child = controller(&["serve", "--listen", "127.0.0.1:0"])
        .args(["--data-dir", text(&site.options.data_dir)])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("since hosts have changed") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
    }
    for word in [
        "WARN",
        "policy.yaml:22",
        "web-stays-away",
        "10.1.0.1",
        "10.2.0.1",
    ] {
        assert!(line.contains(word), "{line}");
    }
    signal(&child, Signal::TERM);
    // It says more as it ends.
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
}
