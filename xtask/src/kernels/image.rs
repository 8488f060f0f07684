//! The initramfs of an emulated machine: the programs under test, the few tools that they and the test
//! call, the libraries of all of these, and the kernel's modules.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{Kernel, TEST, archive::Files, work_directory};
use crate::{command, root, setup::find_program};

/// What the test calls, beside the programs under test.
const TOOLS: [&str; 3] = ["ip", "ping", "timeout"];

/// Modules of Debian's kernels: for the network of namespaces, clsact filters, VLANs and SCTP. In the order
/// of what needs what.
const MODULES: [&str; 13] = [
    "llc",
    "stp",
    "bridge",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "garp",
    "mrp",
    "8021q",
    "libcrc32c",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "sctp",
];

/// The programs under test, and the one that the machine is booted for.
pub struct Programs {
    /// The name of the latter.
    pub main: &'static str,
    files: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Finds the programs that were built with a test program.
    ///
    /// # Errors
    ///
    /// One was not.
    pub fn beside(test: &Path) -> Result<Self> {
        // Test programs are in `deps`, below the others.
        let directory = test.ancestors().nth(2).unwrap_or(test);
        Self::new(TEST, test, directory)
    }

    /// Finds a program, and those under test in a directory.
    ///
    /// # Errors
    ///
    /// One was not built.
    pub fn new(main: &'static str, path: &Path, directory: &Path) -> Result<Self> {
        let mut files = vec![(main.to_owned(), path.to_owned())];
        for name in ["bulkhead", "bulkhead-agent", "bulkhead-controller"] {
            let path = directory.join(name);
            ensure!(path.is_file(), "{} is not built", path.display());
            files.push((name.to_owned(), path));
        }
        Ok(Self { main, files })
    }

    /// Takes another build of a program under test.
    #[must_use]
    pub fn with(mut self, name: &str, path: PathBuf) -> Self {
        for (of, file) in &mut self.files {
            if of == name {
                file.clone_from(&path);
            }
        }
        self
    }
}

/// Makes the initramfs of a kernel's machine; its file.
///
/// # Errors
///
/// A tool or a module is missing, or a file cannot be written.
pub fn make(kernel: &Kernel, files: &Files, programs: &Programs) -> Result<PathBuf> {
    let work = work_directory(kernel);
    let tree = work.join("root");
    match fs::remove_dir_all(&tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", tree.display()));
        }
        _ => {}
    }
    for (name, path) in &programs.files {
        let target = tree.join("programs").join(name);
        copy_program(path, &target, &tree)?;
        // Most of what the compiler has written is for debuggers, and the machine has little memory.
        command::run(Command::new("strip").arg(&target))?;
    }
    for name in TOOLS {
        copy_program(&find(name)?, &tree.join("tools").join(name), &tree)?;
    }
    copy_program(&find("busybox")?, &tree.join("bin/busybox"), &tree)?;
    copy_modules(files, &tree.join("modules"))?;
    copy(&root().join("tests/kernels/init"), &tree.join("init"))?;
    // The operator of the test's laboratory works in it: the machine makes it.
    let workspace = root().join("tests");
    fs::write(
        tree.join("workspace"),
        workspace.as_os_str().as_encoded_bytes(),
    )
    .context("writing where the workspace is")?;
    pack(&tree, &work.join("initramfs"))
}

fn find(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} is missing: run `cargo xtask setup`"))
}

/// Copies a program, and the libraries that it is linked with to where they are here.
fn copy_program(from: &Path, to: &Path, tree: &Path) -> Result<()> {
    copy(from, to)?;
    // It fails on a static program, which needs none.
    let listed = Command::new("ldd")
        .arg(from)
        .stderr(Stdio::null())
        .output()
        .context("running ldd")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for library in paths.map(Path::new) {
        let copied = inside(tree, library);
        if !copied.exists() {
            copy(library, &copied)?;
        }
    }
    Ok(())
}

/// Copies the modules, numbered in their order; one that is built in is left out.
fn copy_modules(files: &Files, to: &Path) -> Result<()> {
    make_directory(to)?;
    let listed = files.modules.join("modules.builtin");
    let built_in =
        fs::read_to_string(&listed).with_context(|| format!("reading {}", listed.display()))?;
    let found = command::output(
        Command::new("find")
            .arg(files.modules.join("kernel"))
            .args(["-name", "*.ko*"]),
    )?;
    for (number, name) in MODULES.iter().enumerate() {
        let plain = format!("/{name}.ko");
        let target = to.join(format!("{number:02}-{name}.ko"));
        let compressed = format!("{plain}.xz");
        if let Some(path) = found.lines().find(|path| path.ends_with(&plain)) {
            copy(Path::new(path), &target)?;
        } else if let Some(path) = found.lines().find(|path| path.ends_with(&compressed)) {
            let file = create(&target)?;
            command::run(Command::new("xz").args(["-dc", path]).stdout(file))?;
        } else {
            ensure!(
                built_in.lines().any(|path| path.ends_with(&plain)),
                "the kernel in {} has no module {name}",
                files.modules.display()
            );
        }
    }
    Ok(())
}

/// Writes a tree as the kernel reads it.
fn pack(tree: &Path, to: &Path) -> Result<PathBuf> {
    let list = command::output(Command::new("find").arg(".").current_dir(tree))?;
    let names = to.with_extension("list");
    fs::write(&names, list).with_context(|| format!("writing {}", names.display()))?;
    let names = File::open(&names).with_context(|| format!("reading {}", names.display()))?;
    command::run(
        Command::new("cpio")
            .args(["--create", "--format=newc", "--quiet"])
            .current_dir(tree)
            .stdin(names)
            .stdout(create(to)?),
    )?;
    Ok(to.to_owned())
}

/// The place in a tree of what is at an absolute path here.
fn inside(tree: &Path, path: &Path) -> PathBuf {
    tree.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        make_directory(directory)?;
    }
    fs::copy(from, to)
        .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("making {}", path.display()))
}
