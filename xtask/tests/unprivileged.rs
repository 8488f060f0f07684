//! Without root, what needs it says so in a sentence, at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

/// Nobody, on every system.
const NOBODY: &str = "65534";

/// Runs as root, to become nobody.
#[test]
fn test_and_demo_without_root_end_with_one_sentence() {
    // Nobody may be barred from the directories above the target directory.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let xtask = directory.path().join("xtask");
    fs::copy(env!("CARGO_BIN_EXE_xtask"), &xtask).unwrap();
    fs::set_permissions(&xtask, Permissions::from_mode(0o755)).unwrap();
    for verb in ["test", "demo"] {
        let output = Command::new("setpriv")
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
            .arg(&xtask)
            .arg(verb)
            .current_dir("/")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !text.starts_with("setpriv:"),
            "this test needs root, to become another user: {text}"
        );
        assert_eq!(output.status.code(), Some(1), "{verb}: {text}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(
            text.starts_with(&format!("error: `{verb}` needs root to ")),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
