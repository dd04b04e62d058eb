//! `docs/failures.md` says what was promised, and by which test: each of these exists, and no trap of the list is without one.

use std::{collections::BTreeSet, fs};

use switchyard_tests::programs;

/// The numbers of the list of traps that the page goes by.
const TRAPS: std::ops::RangeInclusive<u32> = 1..=22;

fn page() -> String {
    fs::read_to_string(programs::workspace().join("docs/failures.md")).expect("the page")
}

/// Everything in backticks that names a test: `path` or `path::name`.
fn named(text: &str) -> BTreeSet<(String, Option<String>)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let tests = quoted.filter(|text| text.contains(".rs") || text.contains("/golden/"));
    tests
        .map(|text| match text.split_once("::") {
            Some((path, name)) => (path.to_owned(), Some(name.to_owned())),
            None => (text.to_owned(), None),
        })
        .collect()
}

/// Does this source have a test of this name? Its own function, or an entry of a macro that makes tests from a list.
fn has_test(source: &str, name: &str) -> bool {
    let function = |line: &str| {
        let line = line.trim_start();
        [
            format!("fn {name}("),
            format!("async fn {name}("),
            format!("{name}: "),
            format!("{name}:"),
            format!("{name},"),
        ]
        .iter()
        .any(|begin| line.starts_with(begin.as_str()))
    };
    source.lines().any(function)
}

#[test]
fn every_test_that_the_failure_table_names_exists() {
    let missing: Vec<String> = named(&page())
        .into_iter()
        .filter_map(|(path, name)| {
            let Ok(source) = fs::read_to_string(programs::workspace().join(&path)) else {
                return Some(format!("{path} does not exist"));
            };
            let name = name?;
            (!has_test(&source, &name)).then(|| format!("{path} has no test {name}"))
        })
        .collect();
    assert!(missing.is_empty(), "docs/failures.md names what is not there: {missing:#?}");
}

#[test]
fn every_trap_has_a_row_with_a_test() {
    let page = page();
    for trap in TRAPS {
        let begin = format!("| D{trap} |");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with(&begin)).collect();
        assert!(!rows.is_empty(), "docs/failures.md has no row for D{trap}");
        for row in rows {
            let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
            assert!(!named(tests).is_empty(), "no test stands behind this row: {row}");
        }
    }
    assert!(!page.contains("no test yet"), "docs/failures.md still says: no test yet");
}

#[test]
fn names_are_found_in_functions_and_in_lists_of_rows_and_nothing_else_is() {
    let source = "async fn one() {}\n    two: still(1);\n    three,\n// four\n fn fivefold() {}";
    let found = |name| has_test(source, name);
    assert!(found("one") && found("two") && found("three"));
    assert!(!found("four") && !found("five") && !found("on"));
    let row = "a `tests/x.rs::one`, `core/tests/golden/1.txt` and `yardctl plan`";
    let paths: Vec<String> = named(row).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["core/tests/golden/1.txt", "tests/x.rs"]);
}
