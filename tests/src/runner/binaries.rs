//! Which test binaries there are, by what cargo has written of the build, and which of them are wanted. Pure.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use anyhow::Context;
use serde::Deserialize;

use super::job::Job;

/// One line of cargo's messages, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// A test binary that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Such as `hub`, for the unit tests of its library, or `hub/store_lease`.
    pub name: String,
    /// The file.
    pub executable: PathBuf,
    /// The folder of its package, which cargo runs it in.
    pub package: PathBuf,
}

/// What the user wants: binaries with this in their name, and of those the tests with that in theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    binary: String,
    test: Option<String>,
}

impl FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (binary, test) = text.split_once(':').map_or((text, None), |(binary, test)| (binary, Some(test)));
        if binary.is_empty() || test.is_some_and(str::is_empty) {
            return Err(
                "write the name of a binary, and after a colon that of a test, as in scenarios:weights".to_owned()
            );
        }
        // The colons of a path: `scenarios::weights` means the same.
        let test = test.map(|test| test.trim_start_matches(':').to_owned());
        Ok(Self { binary: binary.to_owned(), test })
    }
}

/// The test binaries among cargo's messages, each once, by name.
///
/// # Errors
/// When a message is none of cargo's.
pub fn read(messages: &str) -> anyhow::Result<Vec<Binary>> {
    let mut found = BTreeMap::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).with_context(|| format!("not a message of cargo: {line}"))?;
        let is_test = message.reason == "compiler-artifact" && message.profile.is_some_and(|profile| profile.test);
        if let (true, Some(target), Some(executable)) = (is_test, message.target, message.executable) {
            let package = message.manifest_path.parent().context("a manifest outside of a folder")?.to_owned();
            let folder = package.file_name().context("a package in the root folder")?.to_string_lossy();
            let is_library = target.kind.iter().any(|kind| kind == "lib");
            let name = if is_library { folder.into_owned() } else { format!("{folder}/{}", target.name) };
            found.insert(name.clone(), Binary { name, executable, package });
        }
    }
    Ok(found.into_values().collect())
}

/// Those that are wanted; all when nothing was said.
///
/// # Errors
/// When a wish fits none of them.
pub fn choose(jobs: Vec<Job>, only: &[Only]) -> anyhow::Result<Vec<Job>> {
    if let Some(wish) = only.iter().find(|wish| !jobs.iter().any(|job| job.name.contains(&wish.binary))) {
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        anyhow::bail!("no test binary has {:?} in its name; there are: {}", wish.binary, names.join(", "));
    }
    let wanted = |mut job: Job| {
        let mut fitting = only.iter().filter(|wish| job.name.contains(&wish.binary)).peekable();
        if !only.is_empty() {
            fitting.peek()?;
        }
        let tests: Vec<Option<String>> = fitting.map(|wish| wish.test.clone()).collect();
        // A wish for the whole binary is one for all of its tests.
        job.tests = tests.into_iter().collect::<Option<Vec<String>>>().unwrap_or_default();
        Some(job)
    };
    Ok(jobs.into_iter().filter_map(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(package: &str, kind: &str, name: &str, test: bool, executable: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/w/{package}/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
        )
    }

    fn jobs(names: &[&str]) -> Vec<Job> {
        let binary = |name: &&str| Binary { name: (*name).to_owned(), executable: "/x".into(), package: "/w".into() };
        names.iter().map(binary).map(Job::from).collect()
    }

    fn chosen(names: &[&str], only: &[&str]) -> Vec<(String, Vec<String>)> {
        let only: Vec<Only> = only.iter().map(|text| text.parse().unwrap()).collect();
        choose(jobs(names), &only).unwrap().into_iter().map(|job| (job.name, job.tests)).collect()
    }

    #[test]
    fn only_test_executables_are_taken_and_named_after_their_package() {
        let lines = [
            message("hub", "lib", "switchyard_hub", true, r#""/t/hub-1""#),
            message("hub", "lib", "switchyard_hub", false, "null"),
            message("hub", "bin", "switchyard-hub", false, r#""/t/switchyard-hub""#),
            message("cli", "test", "process", true, r#""/t/process-1""#),
            message("agent", "test", "process", true, r#""/t/process-2""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            "a line that somebody printed".to_owned(),
        ];
        let names: Vec<String> = read(&lines.join("\n")).unwrap().into_iter().map(|binary| binary.name).collect();
        assert_eq!(names, ["agent/process", "cli/process", "hub"]);
    }

    #[test]
    fn without_a_wish_everything_runs() {
        assert_eq!(chosen(&["hub", "core/simulate"], &[]), [("hub".into(), vec![]), ("core/simulate".into(), vec![])]);
    }

    #[test]
    fn a_wish_takes_binaries_by_a_part_of_their_name_and_tests_after_a_colon() {
        let names = ["hub/store_lease", "hub/store_mirror", "tests/scenarios"];
        assert_eq!(
            chosen(&names, &["store"]),
            [("hub/store_lease".into(), vec![]), ("hub/store_mirror".into(), vec![])]
        );
        assert_eq!(chosen(&names, &["scenarios::weights"]), [("tests/scenarios".into(), vec!["weights".to_owned()])]);
        let both = ["scenarios:flow", "scenarios:weights"];
        assert_eq!(chosen(&names, &both), [("tests/scenarios".into(), vec!["flow".to_owned(), "weights".to_owned()])]);
        assert_eq!(chosen(&names, &["scenarios:flow", "scenarios"]), [("tests/scenarios".into(), vec![])]);
    }

    #[test]
    fn a_wish_that_fits_nothing_is_an_error_that_lists_what_there_is() {
        let error = choose(jobs(&["hub", "cli"]), &["scenario".parse().unwrap()]).unwrap_err().to_string();
        assert_eq!(error, "no test binary has \"scenario\" in its name; there are: hub, cli");
        assert!(":weights".parse::<Only>().is_err());
        assert!("scenarios:".parse::<Only>().is_err());
    }
}
