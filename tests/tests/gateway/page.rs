//! `docs/http.md` lists exactly the calls that there are.

use std::{collections::BTreeSet, fs};

use switchyard_hub::gateway::routes::BINDINGS;
use switchyard_tests::programs;

/// The page.
pub fn text() -> String {
    let path = programs::workspace().join("docs/http.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_page_lists_every_call_and_no_other() {
    let rows = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        Some((cells.next()?, cells.next()?)).filter(|(path, _)| path.contains(" /v1"))
    };
    let listed: Vec<(String, String)> = text().lines().filter_map(rows).collect();
    let set: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(set.len(), listed.len(), "a call is listed twice: {listed:?}");
    let bound = BINDINGS.iter().map(|binding| {
        let call = binding.rpc.rsplit('/').next().expect("a part").to_owned();
        (format!("{} {}", binding.http, binding.path.replace("policy.", "")), call)
    });
    assert_eq!(set, bound.collect());
}
