//! Builds the kernel programs with the same toolchain and the recipe of `docs/building.md`: nightly
//! features by `RUSTC_BOOTSTRAP`, `core` from source, bpf-linker as the linker.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, bail};

const PACKAGE: &str = "bulkhead-agent-ebpf";
const TARGET: &str = "bpfel-unknown-none";

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for source in [
        "agent-ebpf/src",
        "agent-ebpf/Cargo.toml",
        "datapath/src",
        "Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    // A directory of its own: the outer cargo holds the lock of its target directory.
    let target_dir = PathBuf::from(env::var("OUT_DIR")?).join("ebpf");
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Otherwise every small value that begins as zeros is a call that stores byte by byte.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // The kernels that run it load at any address. Otherwise each word of a packet is put together from bytes.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
    ];
    let status = Command::new(env::var("CARGO")?)
        .current_dir(&root)
        .args([
            "build",
            "--release",
            "--package",
            PACKAGE,
            "--target",
            TARGET,
        ])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // What wraps the outer compiler (clippy, coverage) is not for this target.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC")
        .env_remove("RUSTDOC")
        .status()
        .context("running cargo for the kernel programs")?;
    if !status.success() {
        bail!(
            "the kernel programs did not build: `cargo xtask setup` installs what they need (rust-src and bpf-linker)"
        );
    }
    let objects = target_dir.join(TARGET).join("release");
    for (variable, program) in [
        ("BULKHEAD_EBPF_OBJECT", PACKAGE),
        // What the benchmark compares with.
        ("BULKHEAD_LIMIT_OBJECT", "limit"),
    ] {
        println!(
            "cargo:rustc-env={variable}={}",
            objects.join(program).display()
        );
    }
    Ok(())
}
