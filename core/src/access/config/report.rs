//! The faults that are found in an access file, and the checks that several of its fields share.

use std::collections::BTreeSet;

use crate::{access::Span, ids::cut, policy::Violation};

/// Bounds of the file: beyond them it is a mistake, and every call would pay for it.
pub(super) const MOST_NAMES: usize = 100;
const MOST_TEXT: usize = 1024;

#[derive(Default)]
pub(super) struct Report(pub(super) Vec<Violation>);

impl Report {
    pub(super) fn add(&mut self, field: &str, value: &str, problem: &str, remedy: &str) {
        let (problem, remedy) = (problem.to_owned(), remedy.to_owned());
        self.0.push(Violation { field: field.to_owned(), value: cut(value), problem, remedy });
    }

    pub(super) fn at_most(&mut self, field: &str, found: usize, most: usize) {
        if found > most {
            self.add(
                field,
                &found.to_string(),
                &format!("is the number of entries, {most} are allowed"),
                "remove some",
            );
        }
    }

    pub(super) fn text(&mut self, field: &str, value: &str) -> bool {
        if value.is_empty() {
            self.add(field, value, "is empty", "say what it is");
        } else if value.len() > MOST_TEXT || value.chars().any(char::is_control) {
            self.add(field, value, "is longer than 1024 bytes or holds control characters", "check the value");
        } else {
            return true;
        }
        false
    }

    pub(super) fn url(&mut self, field: &str, value: &str) {
        const REMEDY: &str =
            "use https://HOST/PATH, without user, query and fragment; http:// is for loopback addresses";
        if !self.text(field, value) {
            return;
        }
        let rest = match value.split_once("://") {
            Some(("https", rest)) => rest,
            Some(("http", rest)) if is_loopback(rest) => rest,
            _ => return self.add(field, value, "is no https:// URL", REMEDY),
        };
        if rest.is_empty() || rest.starts_with('/') || rest.chars().any(|c| "@?#".contains(c) || c.is_whitespace()) {
            self.add(field, value, "is not a URL that can be asked", REMEDY);
        }
    }

    pub(super) fn names<T: std::str::FromStr<Err = crate::ids::IdError> + Ord>(
        &mut self,
        field: &str,
        given: &[String],
    ) -> Option<Span<T>> {
        let before = self.0.len();
        if given.is_empty() {
            self.add(field, "", "is missing", "name some, or \"*\" alone for all");
        }
        self.at_most(field, given.len(), MOST_NAMES);
        if given.iter().any(|name| name == "*") {
            if given.len() > 1 {
                self.add(field, "*", "stands beside names", "name some, or \"*\" alone for all");
            }
            return (self.0.len() == before).then_some(Span::All);
        }
        let mut names = BTreeSet::new();
        for (i, name) in given.iter().enumerate().take(MOST_NAMES) {
            match name.parse::<T>() {
                Ok(name) => drop(names.insert(name)),
                Err(error) => self.add(&format!("{field}[{i}]"), &error.value, &error.problem, error.remedy),
            }
        }
        (self.0.len() == before).then_some(Span::Only(names))
    }

    pub(super) fn audiences(&mut self, field: &str, given: &[String]) -> BTreeSet<String> {
        if given.is_empty() {
            self.add(
                field,
                "",
                "is missing",
                "say for whom the tokens are made; a token for others must not open this hub",
            );
        }
        self.at_most(field, given.len(), MOST_NAMES);
        for (i, audience) in given.iter().enumerate().take(MOST_NAMES) {
            self.text(&format!("{field}[{i}]"), audience);
        }
        given.iter().cloned().collect()
    }
}

/// True when the host is this machine; for tests and sidecars.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Values of a field that stand in a list twice.
pub(super) fn twice<'a>(list: &str, field: &str, values: impl Iterator<Item = &'a str>, report: &mut Report) {
    let mut seen = BTreeSet::new();
    for (i, value) in values.enumerate() {
        if !value.is_empty() && !seen.insert(value) {
            report.add(&format!("{list}[{i}].{field}"), value, "stands there twice", "keep one of them");
        }
    }
}
