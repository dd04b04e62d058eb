//! Files, folders and stdin as single documents, each sent to the hub as it was written.
//!
//! A document is looked into only as far as needed to name it in messages; judging it is the hub's task.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde_norway::Value;

use crate::{error::Failure, model::Violation};

/// The hub takes at most 64 KiB of manifest in one call.
pub const MAX_MANIFEST: usize = 64 * 1024;
/// Bound on one file: 256 manifests of the largest size, so that a wrong path cannot fill the memory.
const MAX_FILE: u64 = 256 * MAX_MANIFEST as u64;
/// Bound on the documents of one command; above it a folder was surely not meant.
const MAX_DOCUMENTS: usize = 10_000;

/// One YAML or JSON document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// `file:line`, for messages.
    pub source: String,
    /// `namespace/name` as far as the document says so.
    pub name: Option<String>,
    pub text: String,
    /// Why it is not worth sending.
    pub problem: Option<Violation>,
}

impl Document {
    /// How messages call it.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.source),
            None => self.source.clone(),
        }
    }
}

/// All documents of all paths, in the order given; a folder's files in the order of their names.
pub fn read(paths: &[PathBuf], namespace: Option<&str>) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    for path in paths {
        for (source, text) in read_path(path)? {
            documents.extend(split(&source, &text).into_iter().map(|document| inspect(document, namespace)));
        }
        if documents.len() > MAX_DOCUMENTS {
            let why = format!("more than {MAX_DOCUMENTS} documents");
            return Err(Failure::usage("cannot apply that much at once", why, "name fewer files"));
        }
    }
    if documents.is_empty() {
        let why = "no document in what was given";
        return Err(Failure::usage("there is nothing to apply", why, "give a file with a ClusterTrafficPolicy"));
    }
    Ok(documents)
}

fn read_path(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let unreadable = |at: &Path, error: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read {}", at.display()), error, "give a readable YAML or JSON file in UTF-8")
    };
    if path.as_os_str() == "-" {
        let text = bounded(io::stdin().lock()).map_err(|error| unreadable(Path::new("stdin"), &error))?;
        return Ok(vec![("stdin".into(), text)]);
    }
    let files = if path.is_dir() { folder(path).map_err(|error| unreadable(path, &error))? } else { vec![path.into()] };
    if files.is_empty() {
        let why = "no *.yaml, *.yml or *.json in this folder";
        return Err(Failure::usage(format!("nothing to apply in {}", path.display()), why, "name another folder"));
    }
    files
        .into_iter()
        .map(|file| {
            let text = fs::File::open(&file).and_then(bounded).map_err(|error| unreadable(&file, &error))?;
            Ok((file.display().to_string(), text))
        })
        .collect()
}

fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let known = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if known && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn bounded(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    reader.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(text)
}

/// Cuts at the lines that begin with `---` or `...`. YAML forbids these at the start of a line inside a document,
/// also in block scalars, so this is exact and keeps comments, line numbers and the author's own text.
fn split(source: &str, text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let (mut start, mut current) = (1, String::new());
    let mut close = |line: usize, current: &mut String| {
        let text = std::mem::take(current);
        let content = |line: &str| !matches!(line.trim().chars().next(), None | Some('#' | '%'));
        let body = text.strip_prefix("---").unwrap_or(&text);
        if body.lines().any(content) {
            documents.push(Document { source: format!("{source}:{line}"), name: None, text, problem: None });
        }
    };
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let marker = |mark: &str| {
            line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
        };
        if marker("---") || marker("...") {
            close(start, &mut current);
            start = index + 1;
            if marker("...") {
                continue;
            }
        }
        current.push_str(line);
        current.push('\n');
    }
    close(start, &mut current);
    documents
}

/// Names the document, puts the namespace of `-n` in where it has none, and finds what the hub could not even read.
fn inspect(mut document: Document, namespace: Option<&str>) -> Document {
    let refuse = |field: &str, value: String, problem: String, remedy: &str| {
        Some(Violation { field: field.into(), value, problem, remedy: remedy.into() })
    };
    if document.text.len() > MAX_MANIFEST {
        let problem = format!("the document is longer than {MAX_MANIFEST} bytes");
        document.problem = refuse("(document)", format!("{} bytes", document.text.len()), problem, "split the policy");
        return document;
    }
    let mut value: Value = match serde_norway::from_str(&document.text) {
        Ok(value) => value,
        Err(error) => {
            let problem = format!("not readable as YAML or JSON: {error}");
            document.problem = refuse("(document)", String::new(), problem, "correct the syntax at the place named");
            return document;
        }
    };
    let field = |value: &Value, name: &str| value.get("metadata")?.get(name)?.as_str().map(str::to_owned);
    let own = field(&value, "namespace");
    match (&own, namespace) {
        (Some(own), Some(flag)) if own != flag => {
            let problem = format!("-n asks for namespace '{flag}'");
            document.problem =
                refuse("metadata.namespace", own.clone(), problem, "leave out -n, or correct the document");
        }
        (None, Some(flag)) => {
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_mapping_mut) {
                metadata.insert("namespace".into(), flag.into());
                // Only here the author's text is left behind; what was read a moment ago can be written.
                if let Ok(text) = serde_norway::to_string(&value) {
                    document.text = text;
                }
            }
        }
        _ => {}
    }
    document.name =
        field(&value, "name").map(|name| format!("{}/{name}", own.as_deref().or(namespace).unwrap_or("default")));
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "metadata: {name: a, namespace: shop}\nspec: {}\n";
    const B: &str = "# second\nmetadata:\n  name: b\n";

    fn names(text: &str) -> Vec<String> {
        split("f", text).into_iter().map(|document| inspect(document, None).label()).collect()
    }

    #[test]
    fn several_documents_are_cut_at_their_markers_and_named_with_their_line() {
        let text = format!("{A}---\n{B}");
        assert_eq!(names(&text), ["shop/a (f:1)", "default/b (f:3)"]);
        assert_eq!(names(&format!("---\n{A}...\n---\n{B}---\n")), ["shop/a (f:1)", "default/b (f:5)"]);
    }

    #[test]
    fn empty_documents_and_comments_are_no_documents() {
        assert!(names("").is_empty());
        assert!(names("---\n# nothing\n---\n\n--- # here\n").is_empty());
        assert_eq!(names(&format!("# a comment first\n---\n{A}")), ["shop/a (f:2)"]);
    }

    #[test]
    fn a_marker_inside_a_scalar_does_not_cut() {
        let text = "metadata:\n  name: c\nspec:\n  text: |\n    ---\n    x\n  other: ---x\n";
        assert_eq!(names(text), ["default/c (f:1)"]);
    }

    #[test]
    fn text_goes_to_the_hub_as_the_author_wrote_it() {
        let text = "metadata: {name: a} # why\nspec: {}\n";
        assert_eq!(inspect(split("f", text).remove(0), None).text, text);
    }

    #[test]
    fn json_is_a_document_too() {
        assert_eq!(names("{\"metadata\": {\"name\": \"a\", \"namespace\": \"shop\"}}"), ["shop/a (f:1)"]);
    }

    #[test]
    fn the_namespace_flag_fills_a_gap_and_refuses_a_contradiction() {
        let filled = inspect(split("f", B).remove(0), Some("bar"));
        assert_eq!((filled.name.as_deref(), filled.problem), (Some("bar/b"), None));
        assert!(filled.text.contains("namespace: bar"), "{}", filled.text);
        let refused = inspect(split("f", A).remove(0), Some("bar")).problem.unwrap();
        assert_eq!((refused.field.as_str(), refused.value.as_str()), ("metadata.namespace", "shop"));
    }

    #[test]
    fn what_cannot_be_parsed_or_is_too_long_is_refused_with_a_remedy() {
        let broken = inspect(split("f", "a: [1\nb: 2\n").remove(0), None).problem.unwrap();
        assert!(broken.problem.starts_with("not readable as YAML or JSON"), "{broken:?}");
        let long = format!("metadata: {{name: a}}\nx: {}\n", "y".repeat(MAX_MANIFEST));
        let refused = inspect(split("f", &long).remove(0), None).problem.unwrap();
        assert_eq!(refused.problem, "the document is longer than 65536 bytes");
    }

    #[test]
    fn a_folder_gives_its_manifests_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [("2.yml", B), ("1.yaml", A), ("notes.txt", "not: read"), ("3.json", "{\"x\": 1}")] {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let documents = read(&[folder.path().into()], None).unwrap();
        let names: Vec<_> = documents.iter().map(|document| document.name.as_deref()).collect();
        assert_eq!(names, [Some("shop/a"), Some("default/b"), None]);
    }

    #[test]
    fn a_missing_file_and_an_empty_folder_are_usage_errors() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("none.yaml"), folder.path().into()] {
            assert_eq!(read(&[path], None).unwrap_err().exit, crate::error::Exit::Usage);
        }
    }
}
