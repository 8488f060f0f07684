//! The pins of maps and links, which hold enforcement up when the agent is gone: whether they are there, and
//! making them again.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use rustix::mount::{MountFlags, mount};

use crate::kernel::{
    KernelError, attach, bpffs_of, entries, link, requirements, standing::Standing,
};

/// Marks tables that may be live: pinned last.
const GENERATION: &str = "GENERATION";

/// The maps, held open.
#[derive(Debug)]
pub struct Pins(Vec<(OsString, OwnedFd)>);

/// What was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The BPF file system itself.
    FileSystem,
    /// Pins on it.
    Pins,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileSystem => "the BPF file system with Bulkhead's pins was unmounted",
            Self::Pins => "pins of Bulkhead's maps and links were removed",
        })
    }
}

impl Pins {
    /// Opens every map that is pinned in a directory.
    ///
    /// # Errors
    /// [`KernelError::Io`].
    pub fn open(pin_dir: &Path) -> Result<Self, KernelError> {
        let mut maps = Vec::new();
        for pin in entries(pin_dir)?.into_iter().filter(|pin| !pin.is_dir()) {
            let opening = |error| KernelError::syscall(format!("opening {}", pin.display()), error);
            let map = link::get(&pin).map_err(opening)?;
            maps.push((pin.file_name().unwrap_or_default().to_owned(), map));
        }
        maps.sort_by_key(|(name, _)| name == GENERATION);
        Ok(Self(maps))
    }

    /// Makes the pins that are missing; what was lost, if anything was. Costs two directory listings where
    /// nothing was.
    ///
    /// # Errors
    /// [`KernelError::PinsLost`].
    pub fn mend(&self, pin_dir: &Path, standing: &Standing) -> Result<Option<Lost>, KernelError> {
        let there = names(pin_dir)?;
        let links = names(&pin_dir.join(attach::LINKS))?;
        let is_there = |name: Option<&OsStr>, among: &BTreeSet<OsString>| {
            name.is_some_and(|name| among.contains(name))
        };
        let maps: Vec<_> = self
            .0
            .iter()
            .filter(|(name, _)| !is_there(Some(name), &there))
            .collect();
        let links: Vec<_> = standing
            .links()
            .filter(|held| held.link.is_some() && !is_there(held.pin.file_name(), &links))
            .collect();
        if maps.is_empty() && links.is_empty() {
            return Ok(None);
        }
        let mut lost = Lost::Pins;
        let bpffs = bpffs_of(pin_dir);
        let gone = |problem| KernelError::PinsLost {
            pin_dir: pin_dir.to_owned(),
            problem,
        };
        if !requirements::is_bpffs(bpffs) {
            lost = Lost::FileSystem;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("bpf", bpffs, "bpf", flags, None::<&std::ffi::CStr>).map_err(|error| {
                gone(format!(
                    "{} is no BPF file system any more, and the agent may not mount one ({error}): run `mount -t bpf bpf {}`",
                    bpffs.display(),
                    bpffs.display()
                ))
            })?;
        }
        let cannot = |error: io::Error| gone(format!("they cannot be made again: {error}"));
        attach::make_directory(pin_dir)?;
        for held in links {
            if let Some(link) = &held.link {
                link.pin(&held.pin).map_err(cannot)?;
            }
        }
        for (name, map) in maps {
            link::pin(map.as_fd(), &pin_dir.join(name)).map_err(cannot)?;
        }
        Ok(Some(lost))
    }
}

fn names(directory: &Path) -> Result<BTreeSet<OsString>, KernelError> {
    Ok(entries(directory)?
        .into_iter()
        .filter_map(|path| Some(path.file_name()?.to_owned()))
        .collect())
}
