//! The reasons that docs/yardctl.md and the fixtures show are words of the hub. The list is read as text from the core's
//! source, so that this crate does not have to depend on it.

use std::collections::BTreeSet;

use crate::model::fixtures;

const KINDS: [&str; 5] = ["Accepted", "ResolvedRefs", "Programmed", "Converged", "FailedOver"];
const LINKS: [&str; 3] = ["connected", "stale", "syncing"];

/// The reasons of policies, and those of what outlives a shift, which are notes too.
fn words_of_the_hub() -> BTreeSet<String> {
    let mut words = variants("status.rs", "Reason");
    words.extend(variants("shift/notes.rs", "FlowReason"));
    words
}

/// The variants of an enum of the core.
fn variants(file: &str, name: &str) -> BTreeSet<String> {
    let path = format!("{}/../core/src/{file}", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(path).unwrap();
    let head = format!("pub enum {name} {{");
    let (_, body) = source.split_once(&head).unwrap_or_else(|| panic!("{file} has no enum {name} any more"));
    let (body, _) = body.split_once("\n}").unwrap_or_else(|| panic!("the enum {name} ends nowhere"));
    let variants = body.lines().filter_map(|line| line.trim().strip_suffix(','));
    variants.filter(|word| is_reason(word)).map(str::to_owned).collect()
}

fn is_reason(word: &str) -> bool {
    word.len() > 1
        && word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_alphabetic())
}

/// Every reason that a text shows, whichever of the program's forms it is in.
fn shown(text: &str) -> BTreeSet<&str> {
    text.lines().flat_map(shown_in_line).collect()
}

fn shown_in_line(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    // `Programmed is False (InProgress) for version 8: ...`
    found.extend(line.match_indices(") for version ").filter_map(|(end, _)| Some(line[..end].rsplit_once('(')?.1)));
    let cells: Vec<&str> = line.split_whitespace().collect();
    match cells.as_slice() {
        [kind, "True" | "False" | "Unknown", _, _, reason, ..] if KINDS.contains(kind) => found.push(*reason),
        [_, link, .., why] if LINKS.contains(link) && is_reason(why) => found.push(*why),
        _ => {}
    }
    // `  green: ClusterStale: ...`, and `note for green: ClusterStale: ...`
    let after = line.split(": ").skip(1).filter(|_| line.starts_with("  ") || line.contains("note"));
    let pieces: Vec<&str> = after.collect();
    if let [reason, _, ..] = pieces.as_slice()
        && is_reason(reason)
    {
        found.push(*reason);
    }
    found
}

#[test]
fn docs_show_only_reasons_of_the_hub() {
    let words = words_of_the_hub();
    assert!(words.len() > 20 && words.contains("AsRequested"), "{words:?}");
    let docs = include_str!("../../docs/yardctl.md");
    let shown = shown(docs);
    for known in ["AsRequested", "WeightsHeld", "NoTargets", "RemovalsHeld", "ClusterStale", "InProgress", "Settling"] {
        assert!(shown.contains(known), "{known} is in the docs and was not found: {shown:?}");
    }
    let unknown: Vec<&&str> = shown.iter().filter(|word| !words.contains(**word)).collect();
    assert!(unknown.is_empty(), "docs/yardctl.md shows reasons that the hub never gives: {unknown:?}");
}

#[test]
fn a_reason_is_found_in_every_form_in_which_it_is_shown() {
    let text = "\
NOT CONVERGED: Programmed is False (One) for version 7: waits
Accepted      True          7  4m05s  Two  -
blue     connected         90        100         100  100.0%  Three
  blue: Four: 1 target is kept
2026-01-02T03:00:00Z note for green: Five: kept: for now
green    stale             10          0           0    0.0%  -
";
    assert_eq!(shown(text), BTreeSet::from(["Five", "Four", "One", "Three", "Two"]));
}

#[test]
fn fixtures_use_only_reasons_of_the_hub() {
    let words = words_of_the_hub();
    let status = fixtures::policy(7).status;
    let conditions = status.conditions.iter().map(|condition| &condition.reason);
    let clusters = status.clusters.iter().map(|cluster| &cluster.reason);
    for reason in conditions.chain(clusters).chain(status.notes.iter().map(|note| &note.reason)) {
        assert!(words.contains(reason), "{reason}");
    }
}

/// Every `shift ID State ...: why (Reason)` of the docs, as state and reason.
fn shown_of_shifts(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once("shift 019b0c3e-")?;
            let rest = rest.split_once(' ')?.1;
            let rest = rest.strip_prefix("of shop/checkout: ").unwrap_or(rest).trim_start();
            let state = rest.split([' ', ':', ',']).next().filter(|word| is_reason(word))?;
            let mut reason = rest.split('(').filter_map(|piece| piece.split_once(')')).map(|(word, _)| word);
            Some((state, reason.find(|word| is_reason(word))?))
        })
        .collect()
}

#[test]
fn docs_show_only_states_and_reasons_of_shifts_that_the_hub_has() {
    let (states, reasons) = (variants("shift/state.rs", "State"), variants("shift/state.rs", "ShiftReason"));
    let docs = include_str!("../../docs/yardctl.md");
    let shown = shown_of_shifts(docs);
    assert!(shown.contains(&("Baking", "StepProgrammed")) && shown.contains(&("Succeeded", "Converged")), "{shown:?}");
    for (state, reason) in shown {
        assert!(states.contains(state) && reasons.contains(reason), "{state} ({reason})");
    }
}

#[test]
fn the_states_of_shifts_are_those_of_the_hub() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/shift.rs");
    let mine = std::fs::read_to_string(path).unwrap();
    for state in variants("shift/state.rs", "State") {
        assert!(mine.contains(&format!("pb::ShiftState::{state} => Self::{state}")), "{state}");
    }
}
