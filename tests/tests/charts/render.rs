//! Without a cluster: lint, the committed renders, and values that the schema refuses.
//!
//! `SWITCHYARD_ACCEPT=1 cargo test -p switchyard-tests --test charts` writes what is rendered now into the files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use switchyard_tests::{process::Finished, realkube::commands::helm_offline};
use tempfile::TempDir;

/// A chart, the name of its release, and its files of values.
pub struct Chart {
    pub folder: PathBuf,
    pub name: &'static str,
    pub values: Vec<PathBuf>,
}

pub fn charts() -> Vec<Chart> {
    ["switchyard-agent", "switchyard-hub", "switchyard-crds"].map(chart).into()
}

pub fn chart(name: &'static str) -> Chart {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").join(name);
    let mut values: Vec<PathBuf> = match fs::read_dir(folder.join("ci")) {
        Ok(entries) => entries.map(|entry| entry.expect("an entry").path()).collect(),
        Err(_) => Vec::new(),
    };
    values.sort();
    // The chart of definitions has no values.
    assert!(values.len() >= 3 || name == "switchyard-crds", "{name} is rendered with several files of values");
    Chart { folder, name, values }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

async fn helm(arguments: &[&str]) -> Finished {
    let home = TempDir::new().expect("a folder");
    helm_offline(home.path(), arguments).await.expect("helm runs")
}

/// What helm makes of a chart with one file of values, or its refusal.
pub async fn template(chart: &Chart, values: Option<&Path>, more: &[&str]) -> Finished {
    let mut arguments = vec!["template", chart.name, text(&chart.folder), "--namespace", "switchyard"];
    if let Some(values) = values {
        arguments.extend(["--values", text(values)]);
    }
    arguments.extend(more);
    helm(&arguments).await
}

#[tokio::test]
async fn helm_finds_nothing_to_complain_about() {
    for chart in charts() {
        let files = chart.values.iter().map(|path| Some(path.as_path()));
        let all = if chart.values.is_empty() { vec![None] } else { files.collect() };
        for values in all {
            let mut arguments = vec!["lint", "--strict", text(&chart.folder)];
            if let Some(values) = values {
                arguments.extend(["--values", text(values)]);
            }
            let linted = helm(&arguments).await;
            assert_eq!(linted.code, 0, "{linted}");
        }
    }
}

#[tokio::test]
async fn every_chart_renders_what_is_committed() {
    let accept = std::env::var_os("SWITCHYARD_ACCEPT").is_some();
    for chart in charts().iter().filter(|chart| chart.name != "switchyard-crds") {
        let folder = chart.folder.join("rendered");
        let mut expected = Vec::new();
        for values in &chart.values {
            let rendered = template(chart, Some(values), &[]).await;
            assert_eq!(rendered.code, 0, "{rendered}");
            let name = values.file_name().expect("a name").to_str().expect("UTF-8").replace("-values", "");
            let path = folder.join(&name);
            if accept {
                fs::create_dir_all(&folder).expect("a folder");
                fs::write(&path, &rendered.stdout).expect("a file");
            }
            let committed = fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == rendered.stdout, "{} differs from:\n{}", path.display(), rendered.stdout);
            expected.push(path);
        }
        let mut present: Vec<PathBuf> =
            fs::read_dir(&folder).expect("the folder of renders").map(|entry| entry.expect("an entry").path()).collect();
        present.sort();
        assert_eq!(present, expected, "each committed render has its values");
    }
}

/// Each case: chart, what is set besides the minimal values, words of the refusal.
const REFUSED: &[(&str, &str, &[&str])] = &[
    ("switchyard-agent", "cluster.name=Blue!", &["cluster", "name"]),
    ("switchyard-agent", "cluster.name=", &["cluster.name", "such as blue"]),
    ("switchyard-agent", "hub.url=http://hub", &["hub", "url"]),
    ("switchyard-agent", "hub.tls.secretName=", &["hub.tls.secretName", "ca.crt"]),
    ("switchyard-agent", "policySources.enabled=true", &["policySources"]),
    ("switchyard-agent", "readinessGates.releaseAfterSeconds=0", &["releaseAfterSeconds"]),
    ("switchyard-agent", "readinessGates.webhook.enabled=true", &["readinessGates.enabled"]),
    (
        "switchyard-agent",
        "readinessGates.enabled=true,readinessGates.webhook.enabled=true,readinessGates.webhook.certManager.secretName=a",
        &["certificateName and secretName"],
    ),
    ("switchyard-agent", "image.digest=latest", &["image", "digest"]),
    ("switchyard-hub", "aws.accountId=123", &["aws", "accountId"]),
    ("switchyard-hub", "aws.region=", &["aws.region", "eu-central-1"]),
    ("switchyard-hub", "database.existingSecret=", &["database.existingSecret", "trialPostgres"]),
    ("switchyard-hub", "database.trialPostgres.enabled=true", &["not both"]),
    ("switchyard-hub", "database.url=postgres://user:password@db", &["url"]),
    ("switchyard-hub", "tls.secretName=", &["tls.secretName", "ca.crt"]),
    ("switchyard-hub", "rates.modify=fast", &["rates", "modify"]),
    ("switchyard-hub", "replicas=0", &["replicas"]),
    ("switchyard-hub", "serviceAccount.create=false", &["serviceAccount.name"]),
];

#[tokio::test]
async fn values_that_cannot_work_are_refused_by_name() {
    for (name, set, words) in REFUSED {
        let chart = chart(name);
        let minimal = chart.folder.join("ci/minimal-values.yaml");
        // Account ids are digits that are text.
        let kind = if set.contains("accountId") { "--set-string" } else { "--set" };
        let refused = template(&chart, Some(&minimal), &[kind, set]).await;
        assert_ne!(refused.code, 0, "{name} took {set}");
        for word in *words {
            assert!(refused.stderr.contains(word), "{name} with {set} does not say {word:?}: {refused}");
        }
    }
}
