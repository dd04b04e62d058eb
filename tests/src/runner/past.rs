//! How long each job took the last time, in seconds: a file of lines `SECONDS NAME` in the runner's folder. It only decides which
//! begins first, so a lost or broken file is no fault.

use std::{collections::BTreeMap, fmt::Write, path::Path, time::Duration};

use anyhow::Context;

const FILE: &str = "times.txt";

/// The times by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past(BTreeMap<String, f64>);

impl Past {
    /// Those of the folder; none when there is no file.
    pub fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
        let line = |line: &str| {
            let (seconds, name) = line.split_once(' ')?;
            let seconds = seconds.parse::<f64>().ok().filter(|seconds| seconds.is_finite())?;
            Some((name.to_owned(), seconds))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// Of one job, when it ran before.
    pub fn seconds(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// It took this long.
    pub fn took(&mut self, name: &str, time: Duration) {
        self.0.insert(name.to_owned(), time.as_secs_f64());
    }

    /// Keeps them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let mut text = String::new();
        for (name, seconds) in &self.0 {
            writeln!(text, "{seconds:.1} {name}")?;
        }
        let path = folder.join(FILE);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_were_written_and_others_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut past = Past::read(folder.path());
        assert_eq!(past.seconds("hub"), None);
        past.took("hub", Duration::from_millis(1_500));
        past.took("tests/scenarios", Duration::from_secs(300));
        past.write(folder.path()).unwrap();
        assert_eq!(Past::read(folder.path()), past);
    }

    #[test]
    fn broken_lines_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "hub\nNaN core\n2.5 cli\n\n").unwrap();
        let past = Past::read(folder.path());
        assert_eq!((past.seconds("cli"), past.seconds("core"), past.seconds("hub")), (Some(2.5), None, None));
    }
}
