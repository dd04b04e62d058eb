//! Every seed, and every input that once found a fault, in every `make test`; and that targets, programs, folders and dictionaries
//! belong together.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use switchyard_fuzz::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Names in a folder; none when it is not there.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Runs a target with each file of a folder, and answers how many there were.
fn replay(target: &switchyard_fuzz::Target, folder: &Path) -> usize {
    let files = names(folder);
    for name in &files {
        let bytes = fs::read(folder.join(name)).expect("a file");
        let taken = std::panic::catch_unwind(|| (target.run)(&bytes));
        let taken = taken.unwrap_or_else(|_| panic!("{}: {name} finds a fault; see above", target.name));
        assert!(taken || !name.starts_with("good-"), "{}: the seed {name} is not taken any more", target.name);
        assert!(!(taken && name.starts_with("bad-")), "{}: {name} is taken, and has to be refused", target.name);
    }
    files.len()
}

#[test]
fn every_seed_says_whether_it_is_good_or_bad_and_is_taken_or_refused_for_it() {
    for target in TARGETS {
        let seeds = folder("corpus").join(target.name);
        let tried = replay(target, &seeds);
        assert!(tried >= 3, "{}: {tried} seeds", target.name);
        let with = |prefix: &str| names(&seeds).into_iter().filter(|name| name.starts_with(prefix)).count();
        let (good, bad) = (with("good-"), with("bad-"));
        assert_eq!(good + bad, tried, "{}: every seed is `good-...` or `bad-...`: {:?}", target.name, names(&seeds));
        assert!(good >= 2, "{}: {good} seeds that are taken", target.name);
    }
}

#[test]
fn nothing_that_was_found_once_is_found_again() {
    let mut tried = BTreeSet::new();
    for target in TARGETS {
        if replay(target, &folder("regressions").join(target.name)) > 0 {
            tried.insert(target.name);
        }
    }
    // Nothing is ever taken away from there, so a folder that is empty was not read.
    assert!(["gateway", "policy"].iter().all(|name| tried.contains(name)), "{tried:?}");
}

#[test]
fn every_target_has_a_program_seeds_and_a_dictionary_and_nothing_belongs_to_none() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&folder("corpus")), targets);
    let dictionaries: BTreeSet<String> = targets.iter().map(|name| format!("{name}.dict")).collect();
    assert_eq!(names(&folder("dictionaries")), dictionaries);
    assert!(names(&folder("regressions")).iter().all(|name| name == "README.md" || targets.contains(name)));
    let mut programs: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    programs.insert("selftest.rs".to_owned());
    assert_eq!(names(&folder("fuzz_targets")), programs);
    let manifest = fs::read_to_string(folder("Cargo.toml")).expect("the manifest");
    for program in programs {
        let name = program.trim_end_matches(".rs");
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{program}\"")), "{name}");
        let text = fs::read_to_string(folder("fuzz_targets").join(&program)).expect("a program");
        assert!(text.contains(&format!("switchyard_fuzz::target!(switchyard_fuzz::{name}::run);")), "{program}");
    }
}
