//! The files of a spool.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

const EXTENSION: &str = "jsonl";

/// One file.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// The sequence number of its first batch, and its name.
    pub first: u64,
    /// Whole lines; what is behind them is torn.
    pub bytes: u64,
}

impl Segment {
    pub fn path(self, directory: &Path) -> PathBuf {
        directory.join(format!("{:020}.{EXTENSION}", self.first))
    }
}

/// The size of a spool that another process may be using, in bytes.
///
/// # Errors
/// When its directory is there and cannot be read.
pub fn size(directory: &Path) -> io::Result<u64> {
    match list(directory) {
        Ok(segments) => Ok(segments.iter().map(|segment| segment.bytes).sum()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The segments in a directory, oldest first.
pub fn list(directory: &Path) -> io::Result<VecDeque<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let first = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse().ok());
        if let (Some(first), Some(EXTENSION)) = (first, path.extension().and_then(|e| e.to_str())) {
            segments.push(Segment {
                first,
                bytes: entry.metadata()?.len(),
            });
        }
    }
    segments.sort_unstable_by_key(|segment| segment.first);
    Ok(segments.into())
}

/// The line that begins at `offset`, in a file of which `end` bytes are good.
pub fn read_line(path: &Path, offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut line = Vec::new();
    BufReader::new(file.take(end - offset)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(line)
    }
}

/// How many denials a damaged line has at least the beginning of.
pub fn denials_begun(line: &[u8]) -> u64 {
    const BEGIN: &[u8] = b"{\"time_ns\":";
    line.windows(BEGIN.len())
        .filter(|window| *window == BEGIN)
        .count() as u64
}
