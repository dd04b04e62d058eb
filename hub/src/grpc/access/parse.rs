//! Requests about access, read and bounded: each fault names its field. Pure.

use std::{collections::BTreeSet, str::FromStr};

use jiff::SignedDuration;
use switchyard_core::{
    access::{Grant, Grants, Role, Span},
    ids::{ClusterName, IdError, SourceName, cut},
    policy::Violation,
};
use switchyard_proto::api::v1 as proto;

use super::super::errors::ApiError;

/// Grants of one token.
const MOST_GRANTS: usize = 20;
/// Names of one grant, for namespaces and for clusters.
const MOST_NAMES: usize = 100;
/// Characters of a serial number: 20 octets (RFC 5280, 4.1.2.2).
const MOST_SERIAL: usize = 40;

/// The bounds of a life in seconds, and what 0 stands for.
pub struct Lives {
    pub least: u32,
    pub most: u32,
    pub default: u32,
}

/// A minute to a day; an hour.
pub const JOIN: Lives = Lives { least: 60, most: 86_400, default: 3600 };
/// Five minutes to a year; 90 days.
pub const SERVICE: Lives = Lives { least: 300, most: 31_536_000, default: 7_776_000 };

pub fn ttl(asked: u32, lives: &Lives) -> Result<SignedDuration, ApiError> {
    let Lives { least, most, default } = *lives;
    match asked {
        0 => Ok(SignedDuration::from_secs(default.into())),
        asked if (least..=most).contains(&asked) => Ok(SignedDuration::from_secs(asked.into())),
        asked => {
            let remedy = format!("use {least} to {most} seconds, or 0 for {default}");
            Err(ApiError::violation("ttl_seconds", &asked.to_string(), "is out of bounds", &remedy))
        }
    }
}

pub fn cluster(field: &str, name: &str) -> Result<ClusterName, ApiError> {
    name.parse().map_err(|error| ApiError::field(field, error))
}

/// A name of a service token: a DNS label.
pub fn token_name(name: &str) -> Result<String, ApiError> {
    let name: SourceName = name.parse().map_err(|error| ApiError::field("name", error))?;
    Ok(name.to_string())
}

/// An id of a join token. What could be none at all is refused before it is looked for.
pub fn token_id(id: &str) -> Result<&str, ApiError> {
    let good = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
    if id.len() == switchyard_core::access::tokens::ID_CHARS && id.chars().all(good) {
        return Ok(id);
    }
    let remedy = "use an id as ListJoinTokens shows it: 12 letters a-z and digits 2-7";
    Err(ApiError::violation("id", id, "is no id of a join token", remedy))
}

/// None for an empty one; digits in lower case.
pub fn serial(text: &str) -> Result<Option<String>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() <= MOST_SERIAL && text.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(Some(text.to_ascii_lowercase()));
    }
    let remedy =
        "use a serial number as ListAgentCertificates shows it: at most 40 hexadecimal digits; or leave it out for all";
    Err(ApiError::violation("serial", text, "is no serial number", remedy))
}

pub fn grants(given: &[proto::Grant]) -> Result<Grants, ApiError> {
    let mut faults = Vec::new();
    if given.is_empty() || given.len() > MOST_GRANTS {
        let problem = "is the number of grants";
        faults.push(fault("grants", &given.len().to_string(), problem, "give 1 to 20 grants"));
        return Err(ApiError::Invalid(faults));
    }
    let read = given.iter().enumerate().map(|(i, one)| grant(&format!("grants[{i}]"), one, &mut faults));
    let read: Vec<Option<Grant>> = read.collect();
    if faults.is_empty() { Ok(Grants(read.into_iter().flatten().collect())) } else { Err(ApiError::Invalid(faults)) }
}

fn grant(field: &str, given: &proto::Grant, faults: &mut Vec<Violation>) -> Option<Grant> {
    let role = match given.role() {
        proto::Role::Viewer => Some(Role::Viewer),
        proto::Role::Operator => Some(Role::Operator),
        proto::Role::Admin => Some(Role::Admin),
        proto::Role::Unspecified => {
            let field = format!("{field}.role");
            faults.push(fault(&field, &given.role.to_string(), "is no role", "use viewer, operator or admin"));
            None
        }
    };
    let namespaces = span(&format!("{field}.namespaces"), &given.namespaces, faults);
    let clusters = span(&format!("{field}.clusters"), &given.clusters, faults);
    Some(Grant { role: role?, namespaces: namespaces?, clusters: clusters?, overrides: given.overrides })
}

fn span<T: Ord + FromStr<Err = IdError>>(
    field: &str,
    names: &[String],
    faults: &mut Vec<Violation>,
) -> Option<Span<T>> {
    if let [all] = names
        && all == "*"
    {
        return Some(Span::All);
    }
    if names.is_empty() || names.len() > MOST_NAMES {
        let remedy = "give 1 to 100 names, or * alone for all";
        faults.push(fault(field, &names.len().to_string(), "is the number of names", remedy));
        return None;
    }
    let mut read = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        match name.parse() {
            Ok(name) => drop(read.insert(name)),
            Err(IdError { value, problem, remedy, .. }) => {
                let remedy = if name == "*" { "give * alone, or names without it" } else { remedy };
                faults.push(fault(&format!("{field}[{i}]"), &value, &problem, remedy));
            }
        }
    }
    Some(Span::Only(read))
}

fn fault(field: &str, value: &str, problem: &str, remedy: &str) -> Violation {
    let (field, value) = (field.to_owned(), cut(value));
    Violation { field, value, problem: problem.to_owned(), remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(role: proto::Role, namespaces: &[&str], clusters: &[&str]) -> proto::Grant {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        proto::Grant { role: role.into(), namespaces: texts(namespaces), clusters: texts(clusters), overrides: false }
    }

    fn fields(given: &[proto::Grant]) -> Vec<String> {
        match grants(given) {
            Err(ApiError::Invalid(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn grants_are_read_and_every_fault_names_its_place() {
        let read = grants(&[given(proto::Role::Operator, &["shop"], &["*"])]).unwrap();
        let shop = Span::Only(["shop".parse().unwrap()].into());
        let expected = Grant { role: Role::Operator, namespaces: shop, clusters: Span::All, overrides: false };
        assert_eq!(read, Grants(vec![expected]));
        assert_eq!(fields(&[]), ["grants"]);
        assert_eq!(fields(&vec![given(proto::Role::Viewer, &["*"], &["*"]); 21]), ["grants"]);
        let bad = given(proto::Role::Unspecified, &["shop", "Shop'; drop table audit"], &["blue", "*"]);
        assert_eq!(fields(&[bad]), ["grants[0].role", "grants[0].namespaces[1]", "grants[0].clusters[1]"]);
        let unknown = proto::Grant { role: 77, ..given(proto::Role::Viewer, &["*"], &[]) };
        assert_eq!(fields(&[unknown]), ["grants[0].role", "grants[0].clusters"]);
        let many: Vec<String> = (0..101).map(|i| format!("n{i}")).collect();
        let many = proto::Grant { namespaces: many, ..given(proto::Role::Viewer, &[], &["*"]) };
        assert_eq!(fields(&[many]), ["grants[0].namespaces"]);
    }

    #[test]
    fn lives_ids_and_serial_numbers_have_their_bounds() {
        assert_eq!(ttl(0, &JOIN).unwrap(), SignedDuration::from_secs(3600));
        assert_eq!(ttl(60, &JOIN).unwrap(), SignedDuration::from_secs(60));
        for (asked, lives) in [(59, &JOIN), (86_401, &JOIN), (299, &SERVICE), (31_536_001, &SERVICE), (u32::MAX, &JOIN)]
        {
            assert!(ttl(asked, lives).unwrap_err().to_string().contains("ttl_seconds"), "{asked}");
        }
        assert_eq!(serial("").unwrap(), None);
        assert_eq!(serial("0A1b").unwrap().as_deref(), Some("0a1b"));
        for wrong in ["0x1", "1\n2", &"1".repeat(41), "' or 1=1"] {
            assert!(serial(wrong).is_err(), "{wrong}");
        }
        assert!(token_id("abcdefgh2345").is_ok());
        for wrong in ["", "abcdefgh2341", "ABCDEFGH2345", "abcdefgh2345\0", &"a".repeat(1 << 20)] {
            assert!(token_id(wrong).is_err());
        }
        for wrong in ["", "A", "a b", "-a", "a'--", &"a".repeat(64)] {
            assert!(token_name(wrong).is_err(), "{wrong}");
        }
    }
}
