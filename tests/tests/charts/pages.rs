//! The helm commands that the pages show are ones that helm and the charts take.

use super::{helm, path, read};

/// Commands of the fenced shell blocks of a page, continued lines joined.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in page.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default().replace("\\\n", " ");
        found.extend(block.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned()));
    }
    found
}

#[tokio::test]
async fn every_installation_that_a_page_shows_renders() {
    let mut tried = 0;
    for page in ["docs/install.md", "docs/quickstart-eks.md"] {
        for command in commands(&read(page)) {
            // Dots stand for what another command on the page shows.
            if !(command.contains(" install ") || command.contains(" --install "))
                || !command.starts_with("helm ")
                || command.contains(" ...")
            {
                continue;
            }
            let charts = format!("{}/", path("charts").display());
            let words: Vec<String> = command
                .split_whitespace()
                .skip(1)
                .filter(|word| !["--create-namespace", "--install", "--reset-then-reuse-values"].contains(word))
                .map(|word| match word {
                    "install" | "upgrade" => "template".to_owned(),
                    _ => word.replace("charts/", &charts),
                })
                .collect();
            let finished = helm(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
            assert_eq!(finished.code, 0, "{page}: {command}\n{finished}");
            assert!(finished.stdout.contains("kind: "), "{page}: {command}\n{finished}");
            tried += 1;
        }
    }
    assert!(tried >= 4, "the pages show installations: {tried}");
}

#[test]
fn the_page_of_values_names_values_that_are_there() {
    let page = read("docs/install.md");
    let sections = [("switchyard-hub", "## Hub", "## Agent"), ("switchyard-agent", "## Agent", "## Upgrade")];
    for (chart, from, to) in sections {
        let section = page.split_once(from).and_then(|(_, rest)| rest.split_once(to)).expect("a section").0;
        let values: serde_json::Value =
            serde_norway::from_str(&read(&format!("charts/{chart}/values.yaml"))).expect("YAML");
        let table =
            section.split("| value | meaning |").nth(1).expect("a table of values").split("\n\n").next().expect("rows");
        let rows: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
        assert!(rows.len() > 5, "{chart}: {rows:?}");
        for name in rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)) {
            let pointer = format!("/{}", name.replace('.', "/"));
            assert!(values.pointer(&pointer).is_some(), "docs/install.md: {chart} has no value {name}");
        }
    }
}
