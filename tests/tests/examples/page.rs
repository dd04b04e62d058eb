//! No example is left untried, `docs/cd.md` has all of them, and what they say alike is alike.

use std::{collections::BTreeSet, fs};

use switchyard_tests::programs;

use crate::{RUN, argo_cd, argo_rollouts, scene};

#[test]
fn every_file_among_the_examples_is_run_by_a_test_and_explained_on_the_page() {
    let entries = fs::read_dir(scene::examples()).expect("the folder").map(|entry| entry.expect("an entry"));
    let there: BTreeSet<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(there, RUN.iter().map(|file| (*file).to_owned()).collect(), "each file has the module that runs it");
    let page = fs::read_to_string(programs::workspace().join("docs/cd.md")).expect("the page");
    for file in RUN {
        assert!(page.contains(&format!("(../examples/cd/{file})")), "docs/cd.md does not link to {file}");
    }
}

/// The codes after which no pod of a Job tries again: whatever yardctl can end with but 0 and those that another try may change.
#[test]
fn both_jobs_give_up_after_exactly_the_exit_codes_that_say_no() {
    let page = fs::read_to_string(programs::workspace().join("docs/yardctl.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()?.parse().ok());
    let final_ones: Vec<u64> = rows.filter(|code| ![0, 1, 6, 7].contains(code)).collect();
    assert_eq!(final_ones, [2, 3, 4, 5, 8, 9], "the exit codes of docs/yardctl.md");
    let metric = "/spec/metrics/0/provider/job/spec";
    for (file, job) in [(argo_cd::FILE, "/spec"), (argo_rollouts::FILE, metric)] {
        let rule = format!("{job}/podFailurePolicy/rules/0");
        let rule = scene::yaml(file).pointer(&rule).cloned().expect("a first rule");
        assert_eq!((&rule["action"], &rule["onExitCodes"]["operator"]), (&"FailJob".into(), &"In".into()), "{file}");
        let values: Vec<u64> = serde_json::from_value(rule["onExitCodes"]["values"].clone()).expect("numbers");
        assert_eq!(values, final_ones, "{file}");
    }
}

#[test]
fn every_example_says_how_it_authenticates_and_where_its_request_id_comes_from() {
    for file in RUN.iter().filter(|file| !file.ends_with(".json")) {
        let text = scene::read(file);
        let words: Vec<&str> =
            text.lines().take_while(|line| line.starts_with('#')).flat_map(str::split_whitespace).collect();
        let head = words.join(" ");
        for begin in ["Authentication:", "Request id:"] {
            assert!(head.contains(begin), "{file} does not say {begin}");
        }
    }
}
