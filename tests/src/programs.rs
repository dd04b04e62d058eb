//! Where the programs under test are: beside the test binary, in cargo's target folder.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The path of a program of this workspace.
///
/// # Errors
/// Says how to build it when it is not there.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    let own = env::current_exe()?;
    // A test binary is in `<profile>/deps`, the demo in `<profile>`.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let folder = own.parent().unwrap_or(Path::new("."));
        anyhow::anyhow!(
            "{name} is not beside {}: build the programs first with `cargo build --workspace --bins`, or use `make test`",
            folder.display()
        )
    })
}

/// The folder that the workspace's files are in.
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}
