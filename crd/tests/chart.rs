//! The files of the chart are what the types give.

use std::{collections::BTreeSet, fs, path::PathBuf};

use switchyard_crd::definitions;

fn templates() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/switchyard-crds/templates")
}

#[test]
fn the_charts_files_are_what_the_types_give() {
    let mut expected = BTreeSet::new();
    for definition in definitions() {
        let made = definition.yaml().unwrap();
        let kept = fs::read_to_string(templates().join(definition.file)).unwrap_or_default();
        let remedy = "run: cargo run -p switchyard-crd -- charts/switchyard-crds/templates";
        assert!(made == kept, "{} differs from the types; {remedy}", definition.file);
        assert!(!made.contains("{{"), "{}: helm would take it for its own language", definition.file);
        expected.insert(definition.file.to_owned());
    }
    let files = fs::read_dir(templates()).unwrap();
    let found: BTreeSet<String> =
        files.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(found, expected, "nothing else is in the chart");
}
