//! Many map entries in one `bpf(2)` call: aya writes and reads them one by one.

use std::{io, path::Path};

use aya::{Pod, maps::MapData};

use crate::kernel::{KernelError, raw_fd};

/// Commands from `include/uapi/linux/bpf.h`.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
/// The kernel's own error for what a map has no operation for (`include/linux/errno.h`).
const ENOTSUPP: i32 = 524;

/// The part of `union bpf_attr` that the batch commands read, and write `count` of.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// What a call did.
#[derive(Default)]
struct Done {
    /// So many entries.
    count: usize,
    /// Where the next call goes on.
    place: u32,
    /// Nothing comes after.
    was_last: bool,
}

/// A pinned map with keys and values of these types.
pub struct Bulk<K, V> {
    map: MapData,
    name: &'static str,
    types: std::marker::PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Bulk<K, V> {
    /// Opens a pinned map.
    ///
    /// # Errors
    /// [`KernelError::Bpf`] and [`KernelError::NotPermitted`].
    pub fn open(pin_dir: &Path, name: &'static str) -> Result<Self, KernelError> {
        let map = MapData::from_pin(pin_dir.join(name))
            .map_err(|error| KernelError::bpf(format!("opening the pinned map {name}"), error))?;
        Ok(Self {
            map,
            name,
            types: std::marker::PhantomData,
        })
    }

    /// Writes entries; each key has `of_key` values, more than one where each CPU has its own. False
    /// when this kernel writes entries of such maps one by one only.
    ///
    /// # Errors
    /// As `bpf(2)` reports: some of them may be written.
    pub fn write(&self, keys: &[K], values: &[V], of_key: usize) -> Result<bool, KernelError> {
        let written = self.call(
            BPF_MAP_UPDATE_BATCH,
            None,
            keys.as_ptr(),
            values.as_ptr(),
            {
                assert_eq!(keys.len() * of_key, values.len(), "each key has its values");
                keys.len()
            },
        );
        match written {
            Ok(Done { count, .. }) if count == keys.len() => Ok(true),
            Err(error) if error.raw_os_error() == Some(ENOTSUPP) => Ok(false),
            result => {
                let error = result
                    .err()
                    .unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                let doing = format!("writing the map {}", self.name);
                Err(KernelError::syscall(doing, error))
            }
        }
    }

    /// Calls `each` for every entry of a hash table, some thousands at a time. What comes and goes meanwhile
    /// may be there or not; nothing comes twice. `key` and `value` stand where none was read yet.
    ///
    /// # Errors
    /// As `bpf(2)` reports.
    pub fn walk(&self, key: K, value: V, mut each: impl FnMut(&K, &V)) -> Result<(), KernelError> {
        /// More than share a bucket.
        const AT_ONCE: usize = 4096;
        let (mut keys, mut values) = (vec![key; AT_ONCE], vec![value; AT_ONCE]);
        let mut after = None;
        loop {
            let (keys_at, values_at) = (keys.as_mut_ptr(), values.as_mut_ptr());
            let done = self
                .call(
                    BPF_MAP_LOOKUP_BATCH,
                    after.as_ref(),
                    keys_at,
                    values_at,
                    AT_ONCE,
                )
                .map_err(|error| {
                    KernelError::syscall(format!("reading the map {}", self.name), error)
                })?;
            for (key, value) in keys.iter().zip(&values).take(done.count) {
                each(key, value);
            }
            if done.was_last {
                return Ok(());
            }
            after = Some(done.place);
        }
    }

    /// How many entries there is room for.
    ///
    /// # Errors
    /// As [`Bulk::open`].
    pub fn max_entries(&self) -> Result<u32, KernelError> {
        let info = self.map.info();
        info.map(|info| info.max_entries())
            .map_err(|error| KernelError::bpf(format!("reading the shape of {}", self.name), error))
    }

    /// Calls `bpf(2)`.
    fn call(
        &self,
        command: libc::c_int,
        after: Option<&u32>,
        keys: *const K,
        values: *const V,
        count: usize,
    ) -> io::Result<Done> {
        if count == 0 {
            return Ok(Done::default());
        }
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        // As large as any key that is read this way.
        let mut out = [0_u32; 2];
        let mut attributes = Attributes {
            in_batch: after.map_or(0, |key| std::ptr::from_ref(key) as u64),
            out_batch: &raw mut out as u64,
            keys: keys as u64,
            values: values as u64,
            count: u32::try_from(count).map_err(invalid)?,
            map_fd: u32::try_from(raw_fd(&self.map)).map_err(invalid)?,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the callers pass as many keys and values as `count` says, of the sizes that the map was
        // checked to have; what the kernel writes they have handed out for that; `out` is as large as
        // any key that is read this way; the attributes are live.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        let mut was_last = false;
        if result < 0 {
            let error = io::Error::last_os_error();
            // How the kernel says that nothing comes after what it has read.
            was_last =
                error.raw_os_error() == Some(libc::ENOENT) && command == BPF_MAP_LOOKUP_BATCH;
            if !was_last {
                return Err(error);
            }
        }
        Ok(Done {
            count: attributes.count as usize,
            place: out[0],
            was_last,
        })
    }
}

impl<V: Pod> Bulk<u32, V> {
    /// Writes entries of an array and reads them back.
    ///
    /// # Errors
    /// As [`Bulk::write`], and [`KernelError::ReadBack`].
    pub fn write_array(&self, indices: &[u32], values: &[V]) -> Result<(), KernelError>
    where
        V: PartialEq,
    {
        let (Some(first), Some(last)) = (indices.iter().min(), indices.iter().max()) else {
            return Ok(());
        };
        self.write(indices, values, 1)?;
        let found = self.read(*first, (last - first) as usize + 1, values[0])?;
        for (index, value) in indices.iter().zip(values) {
            if found.get((index - first) as usize) != Some(value) {
                return Err(KernelError::ReadBack {
                    map: self.name,
                    index: *index,
                });
            }
        }
        Ok(())
    }

    /// Reads entries of an array; `any` is what stands where none was read.
    fn read(&self, first: u32, count: usize, any: V) -> Result<Vec<V>, KernelError> {
        let mut keys = vec![0_u32; count];
        let mut values = vec![any; count];
        // The kernel goes on behind this one.
        let before = first.checked_sub(1);
        let (keys_at, values_at) = (keys.as_mut_ptr(), values.as_mut_ptr());
        let read = self
            .call(
                BPF_MAP_LOOKUP_BATCH,
                before.as_ref(),
                keys_at,
                values_at,
                count,
            )
            .map_err(|error| {
                KernelError::syscall(format!("reading the map {}", self.name), error)
            })?;
        values.truncate(read.count);
        Ok(values)
    }
}
