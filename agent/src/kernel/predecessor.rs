//! The pins of another layout: what an agent of another version left enforcing. They stand beside ours,
//! `<bpffs>/bulkhead/v2` beside `<bpffs>/bulkhead/v3`, and are left alone until our own tables are
//! filled. Then each of their hooks gets our program in one step, and they go.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Array, MapData},
    programs::SchedClassifier,
};
use datapath::layout;

use crate::{
    fail,
    interfaces::Interface,
    kernel::{
        Events, HOOKS, KernelError, Programs, attach,
        clsact::{self, Slot},
        link::{self, Link},
        maps, shape,
    },
};

/// What an agent of another version left in the kernel.
#[derive(Debug)]
pub struct Predecessor {
    pin_dir: PathBuf,
    generation: u32,
}

impl Predecessor {
    /// The newest pins beside `pin_dir` with live tables. Others, of an agent that never got so far or of
    /// a removal that was cut short, go.
    ///
    /// # Errors
    /// [`KernelError::Io`]: not to see is not to know.
    pub fn find(pin_dir: &Path) -> Result<Option<Self>, KernelError> {
        for pin_dir in siblings(pin_dir)? {
            let links = super::entries(&pin_dir.join(attach::LINKS))?;
            if generation(&pin_dir)? == 0 && links.is_empty() {
                super::remove_pins(&pin_dir)?;
            }
        }
        Self::look(pin_dir)
    }

    /// As [`Predecessor::find`], and changes nothing.
    ///
    /// # Errors
    /// As [`Predecessor::find`].
    pub fn look(pin_dir: &Path) -> Result<Option<Self>, KernelError> {
        for pin_dir in siblings(pin_dir)? {
            let generation = generation(&pin_dir)?;
            if generation != 0 {
                return Ok(Some(Self {
                    pin_dir,
                    generation,
                }));
            }
        }
        Ok(None)
    }

    /// Where its pins are.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The generation that is live in its tables. Flows that are carried over hold it, so that ours is to
    /// be another.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The name of its directory, such as `v1`.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.pin_dir.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// What it reported and nobody has read.
    ///
    /// # Errors
    /// [`KernelError::Bpf`].
    pub fn events(&self) -> Result<Events, KernelError> {
        Events::open(&self.pin_dir)
    }

    /// Pins its flow tables in our directory as well, where they are of our layout: both programs then
    /// share them, and no flow is lost between them. Others stay behind, and connections are taken
    /// up in mid-stream.
    ///
    /// # Errors
    /// [`KernelError::Io`] and [`KernelError::Bpf`].
    pub fn share_flows(&self, pin_dir: &Path) -> Result<bool, KernelError> {
        if !super::exists(&self.pin_dir.join(flow_layout()))? {
            return Ok(false);
        }
        for name in shape::FLOW_TABLES {
            let (from, to) = (self.pin_dir.join(name), pin_dir.join(name));
            if super::exists(&to)? {
                continue;
            }
            fail::step("sharing a flow table")?;
            let pinning = || format!("pinning {} at {}", from.display(), to.display());
            link::pin_again(&from, &to).map_err(|error| KernelError::syscall(pinning(), error))?;
        }
        Ok(true)
    }

    /// Puts our programs in the place of its programs, each in one step, and removes its pins. The
    /// interfaces that were taken over.
    ///
    /// # Errors
    /// As the system calls report: some are taken over, and another call does the rest.
    pub fn take_over(
        &self,
        programs: &Programs,
        interfaces: &[Interface],
    ) -> Result<Vec<String>, KernelError> {
        let mut taken = Vec::new();
        for pin in super::entries(&self.pin_dir.join(attach::LINKS))? {
            let index = take_link(&pin, programs)?;
            taken.extend(
                interfaces
                    .iter()
                    .filter(|interface| Some(interface.index) == index),
            );
        }
        for interface in interfaces {
            if take_filters(interface, programs)? {
                taken.push(interface);
            }
        }
        let mut taken: Vec<String> = taken.into_iter().map(|found| found.name.clone()).collect();
        taken.sort();
        taken.dedup();
        super::remove_pins(&self.pin_dir)?;
        Ok(taken)
    }
}

/// In every layout, GENERATION is one word, and 0 while nothing is live.
fn generation(pin_dir: &Path) -> Result<u32, KernelError> {
    if !super::has_maps(pin_dir)? {
        return Ok(0);
    }
    let generation: Array<MapData, u32> = maps::open_map(pin_dir, "GENERATION")?;
    generation
        .get(&0, 0)
        .map_err(|error| KernelError::bpf("reading the map GENERATION", error))
}

/// The directories of other layouts, the newest first.
///
/// # Errors
/// [`KernelError::Io`].
pub fn siblings(pin_dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let Some(parent) = pin_dir.parent() else {
        return Ok(Vec::new());
    };
    let number = |path: &PathBuf| -> Option<u32> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix('v')?.parse().ok()
    };
    let mut siblings: Vec<_> = super::entries(parent)?
        .into_iter()
        .filter(|path| path != pin_dir && number(path).is_some())
        .collect();
    siblings.sort_by_key(|path| std::cmp::Reverse(number(path)));
    Ok(siblings)
}

/// An empty directory of this name beside the flow tables says of which layout they are.
#[must_use]
pub fn flow_layout() -> String {
    format!("flows{}", layout::FLOW_VERSION)
}

/// Gives a pinned link our program, and moves its pin to our directory. The index of its interface.
fn take_link(pin: &Path, programs: &Programs) -> Result<Option<u32>, KernelError> {
    let failed = |error| KernelError::syscall(format!("taking over {}", pin.display()), error);
    let removing = |error| KernelError::io(format!("removing {}", pin.display()), error);
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(attach::ON_ITS_WAY);
    let hook = attach::hook_of(pin);
    let ours = programs.pin_dir.join(attach::LINKS).join(name);
    let state = match Link::open(pin).map_err(failed)? {
        Some(link) => Some((link.state().map_err(failed)?, link)),
        None => None,
    };
    fail::step("taking over a link")?;
    let (Some(hook), Some((state, link))) = (hook, state) else {
        fs::remove_file(pin).map_err(removing)?;
        return Ok(None);
    };
    if state.interface.is_none() {
        fs::remove_file(pin).map_err(removing)?;
        return Ok(None);
    }
    if super::exists(&ours)? {
        // Ours runs there already: one of them is enough.
        link.detach().map_err(failed)?;
        fs::remove_file(pin).map_err(removing)?;
        return Ok(state.interface);
    }
    let program = programs.program(hook)?;
    if state.program != attach::id(program, hook)? {
        link.update(attach::descriptor(program, hook)?)
            .map_err(failed)?;
    }
    fail::step("moving the pin of a link")?;
    fs::rename(pin, &ours).map_err(failed)?;
    Ok(state.interface)
}

/// Gives the filters of an older program ours; whether there were any.
fn take_filters(interface: &Interface, programs: &Programs) -> Result<bool, KernelError> {
    let mut taken = false;
    for hook in &HOOKS {
        let doing = || format!("taking over the filter of {}", interface.name);
        let slot = clsact::slot(interface.index, hook.parent, hook.program)
            .map_err(|error| KernelError::syscall(doing(), error))?;
        let program: &SchedClassifier = programs.program(hook)?;
        let ours = attach::id(program, hook)?;
        if matches!(slot, Slot::Ours { program, .. } if program != ours) {
            fail::step("taking over a filter")?;
            attach::replace_filter(program, interface, hook)?;
            taken = true;
        }
    }
    Ok(taken)
}
