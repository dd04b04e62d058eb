//! No example is left untried, and `docs/cd.md` has all of them.

use std::{collections::BTreeSet, fs};

use switchyard_tests::programs;

use crate::{RUN, scene};

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
