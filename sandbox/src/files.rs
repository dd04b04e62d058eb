//! Files that others wait for: they appear whole or not at all.

use std::io;
use std::path::Path;

/// Writes beside the target and renames over it.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    // The process id keeps two writers from sharing the half-written file.
    beside.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}
