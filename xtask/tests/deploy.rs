//! What an operator installs from deploy/ is accepted by the tools that will read it. That the units start, and in which order,
//! is tested on booted systems: `cargo xtask test booted`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The oldest and the newest Kubernetes that the manifests are for.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];
const UNITS: [&str; 2] = ["bulkhead-agent.service", "bulkhead-controller.service"];

#[test]
fn systemd_accepts_the_units_without_a_warning() {
    for unit in UNITS {
        let complaints = verify("as it is", unit, |text| text);
        assert!(complaints.is_empty(), "{unit}: {}", complaints.join("\n"));
    }
}

#[test]
fn systemd_would_refuse_a_unit_with_a_mistake() {
    let mistakes = [
        ("ProtectHome=yes", "ProtectHomes=yes", "Unknown key"),
        (
            "@system-service bpf",
            "@system-service bpff",
            "Failed to parse system call",
        ),
        (
            "ExecStart=/usr/local/bin/",
            "ExecStart=/nowhere/",
            "is not executable",
        ),
    ];
    for (right, wrong, complaint) in mistakes {
        let complaints = verify("with a mistake", UNITS[0], |text| {
            assert!(text.contains(right), "{right} is no longer in the unit");
            text.replace(right, wrong)
        });
        assert!(
            complaints.iter().any(|it| it.contains(complaint)),
            "{wrong}: {complaints:?}"
        );
    }
}

/// The unit and the pod give the agent the same powers: neither has one that the other does without.
#[test]
fn the_unit_and_the_daemon_set_grant_the_same_capabilities() {
    let unit = fs::read_to_string(deploy().join("systemd/bulkhead-agent.service")).unwrap();
    let of_unit: BTreeSet<&str> = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap()
        .split_whitespace()
        .map(|name| name.strip_prefix("CAP_").unwrap())
        .collect();
    let manifest = fs::read_to_string(deploy().join("kubernetes/3-agent.yaml")).unwrap();
    let of_pod: BTreeSet<&str> = manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("add: [")?.strip_suffix(']'))
        .unwrap()
        .split(", ")
        .collect();
    assert_eq!(of_unit, of_pod);
}

#[test]
fn kubernetes_accepts_the_manifests() {
    let manifests = manifests();
    assert!(!manifests.is_empty());
    for version in KUBERNETES {
        let output = run(&mut validate(version, &manifests));
        assert!(
            output.status.success(),
            "Kubernetes {version}: {}",
            text(&output)
        );
    }
}

#[test]
fn kubernetes_would_refuse_a_manifest_with_a_mistake() {
    let agent = fs::read_to_string(deploy().join("kubernetes/3-agent.yaml")).unwrap();
    let mistakes = [
        ("hostNetwork: true", "hostNetworks: true"),
        ("tolerations:", "toleration:"),
        ("runAsUser: 0", "runAsUser: root"),
    ];
    let directory = scratch("manifests");
    for (number, (right, wrong)) in mistakes.iter().enumerate() {
        assert!(
            agent.contains(right),
            "{right} is no longer in the manifest"
        );
        let path = directory.join(format!("{number}.yaml"));
        fs::write(&path, agent.replace(right, wrong)).unwrap();
        let output = run(&mut validate(KUBERNETES[1], &[path]));
        assert!(!output.status.success(), "{wrong} was accepted");
        assert!(
            text(&output).contains("did not validate"),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn the_container_file_copies_what_exists_and_the_build_makes() {
    let workspace = deploy().parent().unwrap().to_owned();
    let containerfile = fs::read_to_string(deploy().join("Containerfile")).unwrap();
    let mut stages = BTreeSet::new();
    let mut programs = BTreeSet::new();
    for line in containerfile.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", _image, "AS", stage] => {
                stages.insert(*stage);
            }
            ["COPY", from, sources @ .., _to] if from.starts_with("--from=") => {
                assert!(
                    stages.contains(from.strip_prefix("--from=").unwrap()),
                    "{line}"
                );
                for source in sources {
                    programs.insert(source.strip_prefix("/source/target/release/").expect(line));
                }
            }
            ["COPY", sources @ .., _to] => {
                for source in sources {
                    assert!(workspace.join(source).exists(), "{source}, in `{line}`");
                }
            }
            _ => {}
        }
    }
    assert_eq!(
        programs,
        BTreeSet::from(["bulkhead", "bulkhead-agent", "bulkhead-controller"])
    );
}

/// What `systemd-analyze verify` says of a unit of ours, changed by `edit`, where its program is installed.
fn verify(case: &str, unit: &str, edit: impl Fn(String) -> String) -> Vec<String> {
    let source = fs::read_to_string(deploy().join("systemd").join(unit)).unwrap();
    let edited = edit(source);
    let root = scratch(&format!("{unit} {case}"));
    install_unit(&root, unit, &edited);
    let output = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(format!("--root={}", root.display()))
        .arg(unit));
    let mut complaints: Vec<String> = text(&output).lines().map(str::to_owned).collect();
    if !output.status.success() {
        complaints.push(format!("systemd-analyze verify: {}", output.status));
    }
    complaints
}

/// Lays out what a machine would have: the unit, its program and the units that systemd brings.
fn install_unit(root: &Path, unit: &str, content: &str) {
    let programs = root.join("usr/local/bin");
    let shell = root.join("bin");
    let units = root.join("etc/systemd/system");
    let systemd = root.join("usr/lib/systemd");
    for directory in [&programs, &shell, &units, &systemd] {
        fs::create_dir_all(directory).unwrap();
    }
    let copied = Command::new("cp")
        .args(["-a", "/usr/lib/systemd/system"])
        .arg(&systemd)
        .status()
        .unwrap();
    assert!(copied.success());
    fs::copy(
        "/bin/true",
        programs.join(unit.strip_suffix(".service").unwrap()),
    )
    .unwrap();
    fs::copy("/bin/true", shell.join("sh")).unwrap();
    fs::write(units.join(unit), content).unwrap();
}

fn validate(version: &str, manifests: &[PathBuf]) -> Command {
    let target = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("target");
    let newest = fs::read_dir(&target)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("kubernetes-validate-")
        })
        .max()
        .expect("the Kubernetes schemas are not installed: run `cargo xtask setup`");
    let mut command = Command::new(newest.join("bin/kubernetes-validate"));
    command
        .args(["--strict", "--kubernetes-version", version])
        .args(manifests);
    command
}

fn manifests() -> Vec<PathBuf> {
    let directory = fs::read_dir(deploy().join("kubernetes")).unwrap();
    let mut paths: Vec<PathBuf> = directory
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("deploy")
}

/// An empty directory of this test's own.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir_all(&path).unwrap();
    path
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("starting {command:?}: {error}; run `cargo xtask setup`"))
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
