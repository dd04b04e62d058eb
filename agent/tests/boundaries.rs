//! The directions that the crate's layout promises, checked by reading the sources: what decides touches neither network nor clock,
//! only `watch` knows the Kubernetes client, and only the tonic shell knows protobuf.

use std::{fs, path::Path};

/// Folder or file, and what no line of it may name.
const RULES: [(&str, &[&str]); 21] = [
    (
        "src/index",
        &["tokio", "kube::", "k8s_openapi", "tonic", "switchyard_proto", "Instant", "SystemTime", "Timestamp::now"],
    ),
    (
        "src/link/session.rs",
        &["tokio", "kube::", "k8s_openapi", "tonic", "switchyard_proto", "Instant", "SystemTime", "rand::"],
    ),
    (
        "src/link/session",
        &["tokio", "kube::", "k8s_openapi", "tonic", "switchyard_proto", "Instant", "SystemTime", "rand::"],
    ),
    (
        "src/policies",
        &["tokio", "kube::", "k8s_openapi", "tonic", "switchyard_proto", "Instant", "SystemTime", "Timestamp::now"],
    ),
    (
        "src/policies/session",
        &["tokio", "kube::", "k8s_openapi", "tonic", "switchyard_proto", "Instant", "SystemTime", "Timestamp::now"],
    ),
    ("src/shifts/session.rs", PURE),
    ("src/shifts/status.rs", PURE),
    ("src/gates/hub.rs", PURE),
    ("src/gates/machine.rs", PURE),
    ("src/gates/stream.rs", PURE),
    ("src/gates/pods.rs", PURE),
    ("src/gates/inject.rs", PURE),
    ("src/identity/machine.rs", PURE),
    ("src/identity/machine", PURE),
    ("src/identity/values.rs", PURE),
    ("src/identity", &["kube::", "k8s_openapi", "SystemTime"]),
    ("src/gates", &["kube::", "k8s_openapi", "SystemTime"]),
    ("src/webhook", &["kube::", "tonic", "switchyard_proto"]),
    ("src/link", &["kube::", "k8s_openapi"]),
    ("src/watch", &["tonic", "switchyard_proto", "crate::link"]),
    ("src/backoff.rs", &["tokio", "Instant", "SystemTime", "rand::"]),
];

const PURE: &[&str] = &[
    "tokio",
    "kube::",
    "k8s_openapi",
    "tonic",
    "switchyard_proto",
    "Instant",
    "SystemTime",
    "Timestamp::now",
    "rand::",
];

#[test]
fn what_decides_touches_neither_network_nor_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut offences = Vec::new();
    let mut files = 0;
    for (place, forbidden) in RULES {
        for file in sources(&root.join(place)) {
            // The driver of a folder is the shell around what decides beside it.
            if forbidden.contains(&"tokio") && file.ends_with("driver.rs") {
                continue;
            }
            files += 1;
            let text = fs::read_to_string(&file).expect("a source file");
            let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
            for (number, line) in code {
                let named = forbidden.iter().filter(|word| line.contains(**word));
                offences.extend(named.map(|word| format!("{}:{}: {word}", file.display(), number + 1)));
            }
        }
    }
    assert!(files > 15, "the rules find their files: {files}");
    assert_eq!(offences, Vec::<String>::new());
}

fn sources(place: &Path) -> Vec<std::path::PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).expect("a folder of the crate").map(|entry| entry.expect("an entry").path());
    let is_test = |path: &Path| path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
    entries.filter(|path| path.extension().is_some_and(|end| end == "rs") && !is_test(path)).collect()
}
