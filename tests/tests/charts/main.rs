//! The charts and the images, judged without a cluster: helm renders and lints, the programs take what the charts give them, the
//! Dockerfiles are read. What an API server says
//! to the charts is in the binary `kubernetes`. Needs helm (`SWITCHYARD_KUBE_TOOLS`; `make test` sees to it).

mod access;
mod images;
mod pages;
mod pods;
mod render;
mod sbom;
mod trial;
mod values;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use switchyard_tests::{process::Finished, programs, realkube::commands};

/// Every chart of this repository.
const CHARTS: [&str; 3] = ["switchyard-agent", "switchyard-crds", "switchyard-hub"];

fn path(of: &str) -> PathBuf {
    programs::workspace().join(of)
}

fn read(of: &str) -> String {
    fs::read_to_string(path(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

/// Names in a folder, sorted; none when it is not there.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The values files that a chart is tried with.
fn cases(chart: &str) -> Vec<String> {
    let folder = format!("charts/{chart}/ci");
    let found = names(&path(&folder));
    found.iter().map(|name| path(&folder).join(name).display().to_string()).collect()
}

async fn helm(arguments: &[&str]) -> Finished {
    let home = tempfile::tempdir().expect("a folder");
    commands::helm_offline(home.path(), arguments).await.expect("helm runs")
}

/// `helm template` of a release with the chart's own name.
async fn template(chart: &str, more: &[&str]) -> Finished {
    let folder = path(&format!("charts/{chart}")).display().to_string();
    let arguments: Vec<&str> =
        ["template", chart, &folder, "--namespace=switchyard"].into_iter().chain(more.iter().copied()).collect();
    helm(&arguments).await
}
