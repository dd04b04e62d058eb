//! Every `yardctl` command in a code block of the documentation, and in the sentences of its runbooks, is one that this program takes:
//! its words are parsed as typed.

use std::{fs, path::Path};

use clap::{CommandFactory, Parser};

use crate::args::Cli;

/// The files with commands for people and for CD systems.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .chain([root.join("README.md")])
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// The commands of the code blocks, with lines that go on joined.
fn commands(text: &str) -> Vec<String> {
    let (mut block, mut commands, mut begun) = (None, Vec::new(), None::<String>);
    for line in text.lines().map(str::trim) {
        if let Some(kind) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(kind) };
            continue;
        }
        // A console shows what is typed after its prompt, and beside it what is answered.
        let typed = line.strip_prefix("$ ");
        let line = match block {
            Some("console") if begun.is_none() && typed.is_none() => continue,
            Some(_) => typed.unwrap_or(line),
            None => continue,
        };
        let so_far = match begun.take() {
            Some(before) => format!("{before} {line}"),
            None if line.starts_with("yardctl ") => line.to_owned(),
            None => match line.find("| yardctl ") {
                Some(at) => line[at + 2..].to_owned(),
                None => continue,
            },
        };
        match so_far.strip_suffix('\\') {
            Some(more) => begun = Some(more.trim_end().to_owned()),
            None => commands.push(so_far),
        }
    }
    commands
}

/// The words of a command as a shell makes them, up to a comment, a pipe, a redirection or the end of the command.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in taken(command).chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | '<' | ';' | '&') => break,
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words.into_iter().map(whole).collect()
}

/// What `${NAME:+WORDS}` is where the variable is set: the words, the variable among them as what another command gave.
fn taken(command: &str) -> String {
    let Some((before, rest)) = command.split_once("${") else { return command.to_owned() };
    let parts = rest.split_once(":+").and_then(|(name, rest)| Some((name, rest.split_once('}')?)));
    let Some((name, (given, after))) = parts else { return command.to_owned() };
    format!("{before}{}{}", given.replace(&format!("\"${name}\""), "$(given)"), taken(after))
}

/// A hash may be shortened on a page, or come from another command.
fn whole(word: String) -> String {
    if word.starts_with("$(") && word.ends_with(')') {
        return "0".repeat(64);
    }
    match word.strip_suffix("...") {
        Some(begin) if begin.chars().all(|c| c.is_ascii_hexdigit()) => format!("{begin:0<64}"),
        _ => word,
    }
}

#[test]
fn every_command_in_the_documentation_is_taken_by_the_program() {
    let mut count = 0;
    for (file, text) in documents() {
        for command in commands(&text) {
            let words = words(&command);
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("docs: {file}: `{command}`\n{error}");
            }
            count += 1;
        }
    }
    assert!(count > 60, "{count} commands were found: the code blocks are not read any more");
}

/// Pages of which somebody in a hurry types what stands in a sentence or a table.
const RUNBOOKS: [&str; 2] = ["operations.md", "threat-model.md"];

/// The commands between single backticks, outside of code blocks.
fn inline(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let quoted = line.split('`').skip(1).step_by(2);
            found.extend(quoted.filter(|text| text.starts_with("yardctl ")).map(str::to_owned));
        }
    }
    found
}

/// The words of such a command: what stands for something of the reader's is filled in, `...` at the end means more of the same.
fn filled_in(command: &str) -> Vec<String> {
    let fill = |word: String| match word.as_str() {
        "NS/NAME" => "shop/checkout".to_owned(),
        "NAME" => "blue".to_owned(),
        "CLUSTER=0" => "blue=0".to_owned(),
        "HASH" => "0".repeat(64),
        "BACKUP" => "2026-01-01T00:00:00Z".to_owned(),
        _ => word,
    };
    words(command.strip_suffix(" ...").unwrap_or(command)).into_iter().map(fill).collect()
}

/// Nothing but the name of a command, such as `yardctl cluster join`: a sentence speaks of it, nobody types it so.
fn is_a_name(words: &[String]) -> bool {
    let mut command = Cli::command();
    words.iter().skip(1).all(|word| {
        let found = command.find_subcommand(word).cloned();
        found.map(|found| command = found).is_some()
    })
}

#[test]
fn every_command_in_a_sentence_of_a_runbook_is_taken_by_the_program() {
    let mut count = 0;
    for (file, text) in documents().into_iter().filter(|(file, _)| RUNBOOKS.contains(&file.as_str())) {
        for command in inline(&text) {
            let words = filled_in(&command);
            if is_a_name(&words) {
                continue;
            }
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("docs: {file}: `{command}`\n{error}");
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} commands were found: the sentences are not read any more");
}

#[test]
fn the_name_of_a_command_is_told_from_a_command_that_lacks_something() {
    let named = |text: &str| is_a_name(&filled_in(text));
    assert!(named("yardctl cluster join") && named("yardctl weights"));
    assert!(!named("yardctl cluster revoke blue") && !named("yardctl nonsense"));
    assert_eq!(inline("a `yardctl b` c `d`\n```sh\n`yardctl e`\n```\n"), ["yardctl b"]);
}

#[test]
fn commands_are_found_in_code_blocks_only_and_go_on_over_lines() {
    let text =
        "yardctl not one\n```console\n$ yardctl a \\\n  --b\noutput\n```\n```sh\ncat x | yardctl c > d # e\n```\n";
    assert_eq!(commands(text), ["yardctl a --b", "yardctl c > d # e"]);
}

#[test]
fn words_are_those_of_a_shell() {
    assert_eq!(words("yardctl a 'b c; d' e=\"f g\" '' > h"), ["yardctl", "a", "b c; d", "e=f g", ""]);
    assert_eq!(words("yardctl a#b # c"), ["yardctl", "a#b"]);
}

#[test]
fn the_access_file_on_the_page_about_cd_systems_gives_one_pipeline_its_own_policies_and_nothing_else() {
    use std::collections::BTreeSet;

    use switchyard_core::{
        access::{AccessConfig, Identity, RawAccess, Role, Touch},
        ids::{ClusterName, Namespace},
    };

    let (_, page) = documents().into_iter().find(|(file, _)| file == "cd.md").unwrap();
    let block = page.split("```yaml\n").skip(1).find(|block| block.starts_with("issuers:")).unwrap();
    let (text, _) = block.split_once("```").unwrap();
    let raw: RawAccess = serde_norway::from_str(text).unwrap();
    let access = AccessConfig::check(&raw).unwrap();
    let grants = |user: &str| {
        let (issuer, user) = ("github".to_owned(), user.to_owned());
        access.grants_of(&Identity::Jwt { issuer, user, groups: BTreeSet::new() })
    };
    let namespace = |name: &str| Namespace::new(name).unwrap();
    let both = BTreeSet::from(["blue", "green"].map(|name| ClusterName::new(name).unwrap()));
    let may = |user: &str, role, name: &str| grants(user).check(role, &Touch::Weights(&namespace(name), &both)).is_ok();
    let own = "repo:example/shop:environment:production";
    assert!(may(own, Role::Operator, "shop"));
    assert!(!may(own, Role::Operator, "pay") && !may(own, Role::Admin, "shop"));
    assert!(!may("repo:example/shop:ref:refs/heads/main", Role::Viewer, "shop"), "the environment is asked for");
    assert!(!may("repo:example/other:environment:production", Role::Viewer, "shop"));
}
