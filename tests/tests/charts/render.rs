//! What the charts render is committed, so that a change of it is seen by who reviews it. `SWITCHYARD_ACCEPT=1` writes it anew.

use std::{collections::BTreeSet, fs};

use super::{CHARTS, cases, helm, names, path, template};

const ACCEPT: &str = "SWITCHYARD_ACCEPT";

/// The chart without values files has nothing to render: its template is committed as it is, and diffed in the crate `crd`.
const RENDERED: [&str; 2] = ["switchyard-agent", "switchyard-hub"];

/// The rendered file that belongs to each values file; the chart without them is tried once, with none.
fn pairs(chart: &str) -> Vec<(Vec<String>, String)> {
    let cases = cases(chart);
    if cases.is_empty() {
        return vec![(Vec::new(), "default.yaml".to_owned())];
    }
    let rendered = |case: &str| {
        let name = case.rsplit('/').next().unwrap_or(case);
        name.strip_suffix("-values.yaml").map(|name| format!("{name}.yaml")).expect("values files end in -values.yaml")
    };
    cases.into_iter().map(|case| (vec![format!("--values={case}")], rendered(&case))).collect()
}

#[tokio::test]
async fn what_the_charts_render_is_what_is_committed() {
    for chart in RENDERED {
        let folder = path(&format!("charts/{chart}/rendered"));
        let pairs = pairs(chart);
        for (values, name) in &pairs {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let rendered = template(chart, &values).await;
            assert_eq!(rendered.code, 0, "{chart} {name}\n{rendered}");
            let file = folder.join(name);
            if std::env::var_os(ACCEPT).is_some() {
                fs::create_dir_all(&folder).expect("the folder is made");
                fs::write(&file, &rendered.stdout).expect("the file is written");
            }
            let committed = fs::read_to_string(&file).unwrap_or_default();
            let differing = committed.lines().zip(rendered.stdout.lines()).find(|(before, now)| before != now);
            assert!(
                committed == rendered.stdout,
                "{} is not what the chart renders; first difference: {differing:?}. When the change is meant, run with {ACCEPT}=1",
                file.display()
            );
        }
        let wanted: BTreeSet<String> = pairs.into_iter().map(|(_, name)| name).collect();
        assert_eq!(names(&folder), wanted, "{chart}: a rendered file without values has nothing to say");
    }
}

#[tokio::test]
async fn helm_finds_nothing_to_complain_about() {
    for chart in CHARTS {
        let folder = path(&format!("charts/{chart}")).display().to_string();
        for (values, name) in pairs(chart) {
            let mut arguments = vec!["lint", "--strict", folder.as_str()];
            arguments.extend(values.iter().map(String::as_str));
            let finished = helm(&arguments).await;
            let complaints = finished.stdout.lines().filter(|line| {
                (line.starts_with("[WARNING]") || line.starts_with("[ERROR]")) && !line.contains("icon is recommended")
            });
            assert_eq!(complaints.count(), 0, "{chart} {name}\n{finished}");
            assert_eq!(finished.code, 0, "{chart} {name}\n{finished}");
        }
    }
}

#[tokio::test]
async fn what_is_for_looking_at_is_not_packaged() {
    for chart in CHARTS {
        let out = tempfile::tempdir().expect("a folder");
        let (folder, out_path) =
            (path(&format!("charts/{chart}")).display().to_string(), out.path().display().to_string());
        let finished = helm(&["package", &folder, "--destination", &out_path]).await;
        assert_eq!(finished.code, 0, "{finished}");
        let archive = names(out.path()).into_iter().next().expect("an archive");
        let archive = out.path().join(archive).display().to_string();
        let listed = std::process::Command::new("tar").args(["-tzf", &archive]).output().expect("tar runs");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains(&format!("{chart}/Chart.yaml")), "{listed}");
        assert!(!listed.contains("/rendered/") && !listed.contains("/ci/"), "{listed}");
    }
}
