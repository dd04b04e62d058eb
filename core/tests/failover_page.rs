//! The worked examples of docs/failover.md, carried out: every row of its table is decided anew, and every default and range that it
//! names is that of the program.

mod failover_support;

use std::{collections::BTreeMap, fs, path::Path};

use failover_support::{Scene, weights};
use switchyard_core::policy::{Capacity, ClusterTrafficPolicy, spec::Failover, validate};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of the rows of the table whose first title is this.
fn table(page: &str, title: &str) -> Vec<Vec<String>> {
    let head = format!("| {title} |");
    let lines = page.lines().skip_while(|line| !line.starts_with(&head)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// `blue 50, green 50, dr 100 (1)`: name, weight, priority.
fn clusters(cell: &str) -> Vec<(String, u32, u32)> {
    let one = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let priority = words.get(2).map_or(0, |word| word.trim_matches(['(', ')']).parse().unwrap());
        (words[0].to_owned(), words[1].parse().unwrap(), priority)
    };
    cell.split(", ").map(one).collect()
}

/// `blue 2 of 10`: name, healthy, expected.
fn health(cell: &str) -> Vec<(String, u32, u32)> {
    let one = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!((words.len(), words[2]), (4, "of"), "{text}");
        (words[0].to_owned(), words[1].parse().unwrap(), words[3].parse().unwrap())
    };
    cell.split(", ").map(one).collect()
}

/// What comes of a row: everything was healthy, then it looks like that for a minute.
fn decided(row: &[String]) -> String {
    let [_, spec, healthy, capacity, _] = row else { panic!("five cells: {row:?}") };
    let spec = clusters(spec);
    let requested: Vec<(&str, u32)> =
        spec.iter().map(|(name, weight, priority)| (name.as_str(), if *priority == 0 { *weight } else { 0 })).collect();
    let mut scene = Scene::new(&requested);
    for (name, weight, priority) in spec.iter().filter(|(.., priority)| *priority > 0) {
        scene.standby(name, *priority, *weight);
    }
    let targets = capacity.split_whitespace().next().and_then(|word| word.parse::<u32>().ok());
    scene.capacity = targets
        .map(|targets| Capacity { peak_requests_per_second: 100 * targets, requests_per_second_per_target: 100 });
    let healthy = health(healthy);
    healthy.iter().for_each(|(name, _, expected)| scene.health(name, *expected, *expected));
    scene.look();
    healthy.iter().for_each(|(name, healthy, expected)| scene.health(name, *healthy, *expected));
    let decided = scene.during(60);
    let named = spec.iter().zip(weights(&decided)).map(|((name, ..), weight)| format!("{name} {weight}"));
    named.collect::<Vec<_>>().join(", ")
}

#[test]
fn every_worked_example_comes_out_as_the_page_says() {
    let rows = table(&read("docs/failover.md"), "what happened");
    assert!(rows.len() >= 10, "the table is found: {rows:?}");
    let wrong: Vec<String> = rows
        .iter()
        .map(|row| (row, decided(row)))
        .filter(|(row, decided)| row.last() != Some(decided))
        .map(|(row, decided)| format!("{}: the page says {}, decided is {decided}", row[0], row[4]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The row of a field begins with its name, then range, then default.
#[test]
fn every_field_has_its_range_and_default_on_the_page() {
    let rows = table(&read("docs/failover.md"), "field of `spec.failover`");
    let rows: BTreeMap<&str, &Vec<String>> = rows.iter().map(|row| (row[0].trim_matches('`'), row)).collect();
    let defaults = serde_json::to_value(Failover::default()).unwrap();
    for (field, default) in defaults.as_object().unwrap() {
        let row = rows.get(field.as_str()).unwrap_or_else(|| panic!("docs/failover.md lacks {field}"));
        assert_eq!(row[2], default.to_string(), "default of {field}");
        let (least, most) = row[1].split_once(" to ").unwrap_or_else(|| panic!("range of {field}: {}", row[1]));
        for (value, valid) in [
            (least.parse::<i64>().unwrap() - 1, false),
            (least.parse().unwrap(), true),
            (most.parse().unwrap(), true),
            (most.parse::<i64>().unwrap() + 1, false),
        ] {
            assert_eq!(is_taken(field, value), valid, "{field}: {value}, the page says {}", row[1]);
        }
    }
    assert_eq!(rows.len(), defaults.as_object().unwrap().len() + 1, "and failback, which has no number: {rows:?}");
}

fn is_taken(field: &str, value: i64) -> bool {
    let mut example: serde_json::Value = serde_norway::from_str(&read("examples/failover.yaml")).unwrap();
    example["spec"]["failover"] = serde_json::json!({ field: value });
    // A number below 0 is none of the type.
    serde_json::from_value::<ClusterTrafficPolicy>(example).is_ok_and(|policy| validate(&policy).is_ok())
}
