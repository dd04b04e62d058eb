//! The Dockerfiles, read as text: no engine runs here. What is checked is what breaks silently: paths and programs that are not
//! there any more, a user that Kubernetes refuses, a base without a version.

use std::collections::BTreeSet;

use super::{names, path, read};

/// One instruction, its continuation lines joined.
#[derive(Debug, PartialEq, Eq)]
struct Instruction {
    word: String,
    rest: String,
}

fn instructions(text: &str) -> Vec<Instruction> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    let joined = lines.map(|line| line.strip_suffix('\\').map_or(format!("{line}\n"), |line| format!("{line} ")));
    let joined: String = joined.collect();
    let split = joined.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    split.map(|(word, rest)| Instruction { word: word.to_owned(), rest: rest.trim().to_owned() }).collect()
}

fn all<'a>(of: &'a [Instruction], word: &str) -> Vec<&'a str> {
    of.iter().filter(|instruction| instruction.word == word).map(|instruction| instruction.rest.as_str()).collect()
}

/// Program, Dockerfile, its instructions.
fn images() -> Vec<(String, String, Vec<Instruction>)> {
    let found = names(&path("images"));
    assert_eq!(found, BTreeSet::from(["agent.Dockerfile".to_owned(), "hub.Dockerfile".to_owned()]));
    let image = |name: String| {
        let program = format!("switchyard-{}", name.trim_end_matches(".Dockerfile"));
        let text = read(&format!("images/{name}"));
        (program, name, instructions(&text))
    };
    found.into_iter().map(image).collect()
}

#[test]
fn an_image_is_built_from_a_named_version_and_runs_from_nothing() {
    for (_, name, found) in images() {
        let bases = all(&found, "ARG").into_iter().filter_map(|argument| argument.split_once("_IMAGE="));
        let bases: Vec<&str> = bases.map(|(_, base)| base).collect();
        assert_eq!(bases.len(), 1, "{name}");
        for base in bases {
            let version = base.split_once(':').map_or("", |(_, version)| version);
            assert!(!version.is_empty() && version != "latest", "{name}: {base} names no version");
        }
        let stages = all(&found, "FROM");
        assert_eq!(stages, ["${BUILD_IMAGE} AS build", "scratch AS run"], "{name}");
    }
}

#[test]
fn the_compiler_of_the_image_is_the_one_that_the_workspace_asks_for() {
    let workspace = read("Cargo.toml");
    let least = workspace.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a version");
    for (_, name, found) in images() {
        let base = format!("BUILD_IMAGE=rust:{}-", least.trim_matches('"'));
        assert!(all(&found, "ARG").iter().any(|argument| argument.starts_with(&base)), "{name}: not {base}");
    }
}

#[test]
fn an_image_runs_as_a_number_that_is_not_root_and_as_the_charts_say() {
    for (program, name, found) in images() {
        assert_eq!(all(&found, "USER"), ["65532:65532"], "{name}");
        let deployment = read(&format!("charts/{program}/templates/deployment.yaml"));
        assert!(deployment.contains("runAsUser: 65532") && deployment.contains("runAsGroup: 65532"), "{program}");
        let end = &found[found.iter().position(|i| i.rest.starts_with("scratch")).expect("a last stage")..];
        assert!(end.iter().all(|instruction| instruction.word != "RUN"), "{name}: nothing runs in the last stage");
    }
}

#[test]
fn an_image_copies_what_is_there_and_all_that_the_workspace_is_made_of() {
    let manifest: serde_json::Value = members();
    for (_, name, found) in images() {
        let copied: BTreeSet<String> = all(&found, "COPY")
            .into_iter()
            .filter(|rest| !rest.starts_with("--from"))
            .flat_map(|rest| rest.split_whitespace().rev().skip(1).map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let allowed = read(".dockerignore");
        for source in &copied {
            assert!(path(source).exists(), "{name}: {source} is not there");
            assert!(
                allowed.lines().any(|line| line == format!("!{source}")),
                "{name}: .dockerignore keeps {source} out"
            );
        }
        for member in manifest.as_array().expect("members") {
            let member = member.as_str().expect("a name");
            assert!(copied.contains(member), "{name}: cargo does not build without {member}, which is not copied");
        }
        for more in ["Cargo.toml", "Cargo.lock", "migrations"] {
            assert!(copied.contains(more), "{name}: {more} is not copied");
        }
    }
}

/// The members of the workspace.
fn members() -> serde_json::Value {
    let workspace = read("Cargo.toml");
    let line = workspace.lines().find_map(|line| line.strip_prefix("members = ")).expect("members on one line");
    serde_json::from_str(line).expect("a list")
}

#[test]
fn an_image_builds_and_starts_a_program_that_cargo_knows() {
    for (program, name, found) in images() {
        let manifest = read(&format!("{}/Cargo.toml", program.trim_start_matches("switchyard-")));
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{program}\"")), "{program} is no program of its package");
        let build = format!("cargo build --release --locked --package {program} --bin {program}");
        assert!(all(&found, "RUN").iter().any(|run| run.contains(&build)), "{name} does not run {build}");
        assert_eq!(all(&found, "ENTRYPOINT"), [format!("[\"/usr/local/bin/{program}\"]")], "{name}");
        let taken = all(&found, "RUN").join("\n");
        assert!(taken.contains(&format!("cp target/release/{program} /image/usr/local/bin/")), "{name}");
        assert!(all(&found, "COPY").contains(&"--from=build /image/ /"), "{name}");
    }
}

#[test]
fn an_image_says_what_it_is_and_from_which_commit() {
    for (program, name, found) in images() {
        let labels = all(&found, "LABEL").join(" ");
        for label in ["title", "description", "licenses", "version", "revision"] {
            assert!(labels.contains(&format!("org.opencontainers.image.{label}=")), "{name} lacks the label {label}");
        }
        assert!(labels.contains(&format!("title=\"{program}\"")), "{name}: {labels}");
        let version = read("Cargo.toml").lines().find_map(|line| line.strip_prefix("version = ").map(str::to_owned));
        let version = version.expect("a version").trim_matches('"').to_owned();
        assert!(all(&found, "ARG").contains(&format!("VERSION={version}").as_str()), "{name} is not of {version}");
        assert!(all(&found, "ARG").contains(&"SOURCE_DATE_EPOCH=0"), "{name}");
    }
}

#[test]
fn an_image_holds_the_list_of_what_its_program_is_made_of_and_says_where() {
    for (program, name, found) in images() {
        let written = format!("./scripts/sbom.sh /image/usr/share/sbom {program} ");
        assert!(all(&found, "RUN").iter().any(|run| run.contains(&written)), "{name} does not run {written}");
        let label = format!("dev.switchyard.sbom=\"/usr/share/sbom/{program}.cdx.json\"");
        assert!(all(&found, "LABEL").join(" ").contains(&label), "{name} lacks {label}");
    }
}

#[test]
fn continued_lines_are_one_instruction_and_comments_none() {
    let found = instructions("# a\nRUN one \\\n    && two\n\nUSER 1\n");
    let words: Vec<&str> = found.iter().map(|instruction| instruction.word.as_str()).collect();
    assert_eq!(words, ["RUN", "USER"]);
    assert!(found[0].rest.contains("one") && found[0].rest.contains("&& two"), "{found:?}");
}
