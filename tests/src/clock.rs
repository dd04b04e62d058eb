//! Wall clocks that jump: a small library (`clock.c`), compiled once and loaded into a program with LD_PRELOAD, adds what a file
//! says to every reading of the wall clock. Monotonic clocks are left alone, as they are on a machine whose time is set.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;
use tokio::sync::OnceCell;

use crate::{undertaker, world};

const SOURCE: &str = include_str!("clock.c");
/// The library finds the file by it.
const FILE: &str = "SWITCHYARD_TESTS_CLOCK";

static LIBRARY: OnceCell<PathBuf> = OnceCell::const_new();

/// The wall clock of the programs that were started with its [`Clock::environment`].
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

async fn compile() -> anyhow::Result<PathBuf> {
    let folder = world::folder()?.keep();
    undertaker::remove(&folder);
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(&source);
    let done = compiler.output().context("cc, which Rust needs for linking, cannot be run")?;
    anyhow::ensure!(done.status.success(), "clock.c: {}", String::from_utf8_lossy(&done.stderr));
    Ok(library)
}

impl Clock {
    /// One that is right, with its file in this folder.
    ///
    /// # Errors
    /// When the library cannot be compiled, or the file not be written.
    pub async fn start(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let library = LIBRARY.get_or_try_init(compile).await?.clone();
        let path = folder.join(format!("{name}.clock"));
        let file = File::options().create(true).truncate(true).write(true).open(&path)?;
        let this = Self { library, path, file };
        this.jump_to(0)?;
        Ok(this)
    }

    /// From now on it is so many seconds ahead; behind, when negative.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn jump_to(&self, seconds: i64) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }

    /// What a program has to be started with.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.library.display().to_string()), (FILE, self.path.display().to_string())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(clock: &Clock) -> i64 {
        let date = Command::new("date").arg("+%s").envs(clock.environment()).output().expect("date runs");
        String::from_utf8_lossy(&date.stdout).trim().parse().expect("seconds")
    }

    #[tokio::test]
    async fn a_program_sees_the_jump_and_this_process_does_not() {
        let folder = world::folder().expect("a folder");
        let clock = Clock::start(folder.path(), "test").await.expect("a clock");
        let now = || jiff::Timestamp::now().as_second();
        let off_by = |clock: &Clock| {
            let (before, seen, after) = (now(), date(clock), now());
            assert!(after - before < 1_000, "a machine that is awake");
            [0, 3_600, -3_600].into_iter().find(|shift| (before + shift..=after + shift).contains(&seen))
        };
        assert_eq!(off_by(&clock), Some(0));
        for shift in [3_600, -3_600] {
            clock.jump_to(shift).expect("it jumps");
            assert_eq!(off_by(&clock), Some(shift));
        }
    }
}
