//! docs/configuration.md says what the program says.

use std::{collections::BTreeMap, fs, path::Path};

use clap::CommandFactory;
use switchyard_hub::args::Args;

/// Flag to (environment, default), from the tables of the page.
fn documented() -> BTreeMap<String, (String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(page).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        assert_eq!(cells.len(), 4, "{line}");
        assert!(cells[3].len() > 10, "no meaning: {line}");
        let before = found.insert(cells[0].to_owned(), (cells[1].to_owned(), cells[2].to_owned()));
        assert_eq!(before, None, "twice: {line}");
    }
    found
}

#[test]
fn the_page_names_every_flag_with_its_environment_and_default_and_no_other() {
    let mut expected = BTreeMap::new();
    for arg in Args::command().get_arguments() {
        let Some(long) = arg.get_long() else { panic!("{arg:?} has no flag") };
        let env = arg.get_env().map(|env| env.to_string_lossy().into_owned());
        let env = env.unwrap_or_else(|| panic!("--{long} has no environment variable"));
        let takes_value = arg.get_action().takes_values();
        let default = match arg.get_default_values() {
            [] if !takes_value => "off".to_owned(),
            [] if arg.is_required_set() => "required".to_owned(),
            [] => "none".to_owned(),
            values => values.iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","),
        };
        // A switch has a default of its own, which nobody types.
        let default = if takes_value { default } else { "off".to_owned() };
        expected.insert(format!("--{long}"), (env, default));
    }
    assert_eq!(documented(), expected);
}

#[test]
fn every_flag_of_the_program_is_explained_in_its_help() {
    for arg in Args::command().get_arguments() {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.len() > 20, "{:?} has no help", arg.get_long());
    }
}
