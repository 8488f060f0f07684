//! A target of `deploy/Containerfile` as a root file system: this machine's libraries and busybox stand for the base
//! image, the programs under test for those that its first stage builds.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::Programs;

/// What the manifests call in an image, beside our programs.
const TOOLS: [&str; 6] = ["sh", "test", "cp", "mv", "rm", "cat"];

/// An image, unpacked.
pub struct Image {
    /// A bundle's directory, in which `rootfs` is.
    pub bundle: PathBuf,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// User and group; root where the file names none.
    pub user: (u32, u32),
    /// Programs under test: where each is here, and in the image.
    pub programs: Vec<(PathBuf, String)>,
}

/// The repository's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Image {
    /// Does what the lines of a target say.
    ///
    /// # Errors
    /// One is not understood, or a file is missing.
    pub fn build(target: &str, bundle: &Path) -> Result<Self> {
        let path = workspace().join("deploy/Containerfile");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let heading = format!(" AS {target}");
        let mut lines = text.lines().skip_while(|line| !line.ends_with(&heading));
        ensure!(lines.next().is_some(), "no target {target}");
        let mut image = Self {
            bundle: bundle.to_owned(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: (0, 0),
            programs: Vec::new(),
        };
        image.make_base()?;
        for line in lines.take_while(|line| !line.starts_with("FROM ")) {
            image
                .take(line)
                .with_context(|| format!("`{line}` in {}", path.display()))?;
        }
        Ok(image)
    }

    fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["#", ..] | ["EXPOSE", ..] => {}
            ["COPY", "--from=build", sources @ .., to] => {
                for source in sources {
                    let name = source
                        .strip_prefix("/source/target/release/")
                        .context("not a program")?;
                    let here = program(name)?;
                    copy_libraries(&here, &self.root())?;
                    self.programs.push((here, format!("{to}{name}")));
                }
            }
            ["COPY", sources @ .., to] => {
                for source in sources {
                    let mut target = self.root().join(to.trim_start_matches('/'));
                    if to.ends_with('/') {
                        target.push(Path::new(source).file_name().context("no name")?);
                    }
                    copy(&workspace().join(source), &target)?;
                }
            }
            ["USER", user] => {
                let (user, group) = user.split_once(':').context("no group")?;
                self.user = (user.parse()?, group.parse()?);
            }
            ["ENTRYPOINT", ..] => {
                self.entrypoint = serde_json::from_str(line.trim_start_matches("ENTRYPOINT"))?;
            }
            ["CMD", ..] => self.command = serde_json::from_str(line.trim_start_matches("CMD"))?,
            _ => bail!("not understood"),
        }
        Ok(())
    }

    fn make_base(&self) -> Result<()> {
        let bin = self.root().join("bin");
        for directory in [
            "bin",
            "dev",
            "etc",
            "proc",
            "sys",
            "tmp",
            "usr/local/bin",
            "var/lib",
        ] {
            fs::create_dir_all(self.root().join(directory)).context("making a root")?;
        }
        fs::write(
            self.root().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n",
        )?;
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
        let busybox = busybox
            .into_iter()
            .find(|path| path.is_file())
            .context("busybox is missing: run `cargo xtask setup`")?;
        copy(busybox, &bin.join("busybox"))?;
        for tool in TOOLS {
            symlink("busybox", bin.join(tool)).context("linking a tool")?;
        }
        Ok(())
    }
}

fn program(name: &str) -> Result<PathBuf> {
    let programs = Programs::find()?;
    Ok(match name {
        "bulkhead" => programs.cli,
        "bulkhead-agent" => programs.agent,
        "bulkhead-controller" => programs.controller,
        _ => bail!("no program of ours is called {name}"),
    })
}

/// Copies the libraries that a program is linked with to where they are here.
fn copy_libraries(program: &Path, root: &Path) -> Result<()> {
    let listed = Command::new("ldd")
        .arg(program)
        .output()
        .context("running ldd")?;
    ensure!(listed.status.success(), "ldd {}", program.display());
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let target = root.join(library.trim_start_matches('/'));
        if !target.exists() {
            copy(Path::new(library), &target)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}
