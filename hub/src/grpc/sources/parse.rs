//! From the messages of a stream of policies to checked types. What is a key is refused when it is out of bounds, naming the field:
//! the stream ends. What is the content of one resource becomes a refusal of that resource, since the user who wrote it must see
//! why, and the others must not wait for it. Pure.

use serde_json::{Value, json};
use switchyard_core::{
    ids::{ClusterName, Epoch, IdError, PolicyKey, ResourceUid, cut},
    policy::{Violation, spec, validate},
    source::words,
};
use switchyard_proto::agent::v1::{self as proto, sync_policies_request::Message};
use uuid::Uuid;

use super::end::End;
use crate::{
    grpc::{agents::parse::shown, policies::manifest},
    store::{NewClaim, Wanted},
};

/// Items in one message; the contract of the .proto file.
pub const MOST_ITEMS: usize = 50;
/// Bytes of one spec; the contract of the .proto file.
const MOST_SPEC: usize = 64 * 1024;
/// Characters of a failure that are kept.
const MOST_TEXT: usize = 1024;

/// SourceHello.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Who.
    pub cluster: ClusterName,
    /// The agent process.
    pub instance: Uuid,
    /// The highest epoch that it has seen.
    pub highest_epoch: Epoch,
}

/// What comes after SourceHello.
#[derive(Clone, Debug)]
pub enum Body {
    /// A list begins.
    ListBegin(String),
    /// Resources that are there, in or outside a list.
    Changes(proto::PolicyChanges),
    /// A list ends.
    ListEnd(String, u32),
    /// The agent cannot see resources; none: it can.
    Failing(Option<String>),
}

/// Resources of one message, checked.
#[derive(Clone, Debug)]
pub struct Changes {
    /// New or changed.
    pub upserts: Vec<NewClaim>,
    /// Gone.
    pub deleted: Vec<(PolicyKey, ResourceUid)>,
}

fn malformed(field: impl Into<String>, value: &str, problem: impl Into<String>, remedy: &str) -> End {
    End::Malformed(Violation {
        field: field.into(),
        value: cut(value),
        problem: problem.into(),
        remedy: remedy.to_owned(),
    })
}

fn id<T>(field: &str, result: Result<T, IdError>) -> Result<T, End> {
    result.map_err(|error| malformed(field, &error.value, error.problem, error.remedy))
}

const SAME_VERSION: &str = "use an agent and a hub of versions that fit together";

/// The first message.
///
/// # Errors
/// [`End`] when it is none, or a field is out of bounds.
pub fn hello(message: proto::SyncPoliciesRequest) -> Result<Hello, End> {
    let Some(Message::Hello(hello)) = message.message else {
        return Err(End::OutOfOrder { message: "another message", place: "before SourceHello" });
    };
    let instance = hello.agent_instance_id;
    Ok(Hello {
        cluster: id("hello.cluster", ClusterName::new(hello.cluster))?,
        instance: Uuid::parse_str(&instance).map_err(|_| {
            malformed("hello.agent_instance_id", &instance, "is not a UUID", "use a new UUID for each agent process")
        })?,
        highest_epoch: Epoch(hello.highest_epoch_seen),
    })
}

/// Any later message, with its number; resources are checked by [`changes`].
///
/// # Errors
/// [`End`] when a field is out of bounds.
pub fn body(message: proto::SyncPoliciesRequest) -> Result<(u64, Body), End> {
    let seq = message.seq;
    let body = match message.message {
        None => return Err(malformed("message", "", "is missing or of an unknown kind", SAME_VERSION)),
        Some(Message::Hello(_)) => {
            return Err(End::OutOfOrder { message: "a second SourceHello", place: "within the stream" });
        }
        Some(Message::ListBegin(begin)) => Body::ListBegin(list_id("list_begin.list_id", begin.list_id)?),
        Some(Message::ListEnd(end)) => Body::ListEnd(list_id("list_end.list_id", end.list_id)?, end.count),
        Some(Message::Changes(changes)) => {
            let count = changes.upserts.len() + changes.deleted.len();
            if count > MOST_ITEMS {
                let problem = format!("is the number of items, {MOST_ITEMS} are allowed");
                return Err(malformed("changes", &count.to_string(), problem, "send more and smaller messages"));
            }
            Body::Changes(changes)
        }
        Some(Message::Failing(failing)) => {
            let text = shown(failing.message, MOST_TEXT);
            Body::Failing(Some(text).filter(|text| !text.is_empty()))
        }
    };
    Ok((seq, body))
}

fn list_id(field: &str, value: String) -> Result<String, End> {
    if value.is_empty() || value.len() > 128 {
        return Err(malformed(field, &value, "has no usable length", "use 1 to 128 characters"));
    }
    Ok(value)
}

/// Checks the resources of a message. Reads up to 50 specs: call it off the threads that serve.
///
/// # Errors
/// [`End`] for the first key that is out of bounds.
pub fn changes(list: proto::PolicyChanges) -> Result<Changes, End> {
    let mut changes = Changes { upserts: Vec::new(), deleted: Vec::new() };
    for (i, resource) in list.upserts.into_iter().enumerate() {
        let at = format!("changes.upserts[{i}]");
        let key = key(&at, resource.namespace, resource.name)?;
        let uid = id(&format!("{at}.uid"), ResourceUid::new(resource.uid))?;
        let generation = resource.generation;
        if generation == 0 || i64::try_from(generation).is_err() {
            let (field, given) = (format!("{at}.generation"), generation.to_string());
            return Err(malformed(field, &given, "is not a generation", "send metadata.generation, which begins at 1"));
        }
        let wanted = wanted(&key, &resource.spec_json).map(Box::new).map_err(|faults| words(&faults));
        changes.upserts.push(NewClaim { key, uid, generation, wanted });
    }
    for (i, resource) in list.deleted.into_iter().enumerate() {
        let at = format!("changes.deleted[{i}]");
        let key = key(&at, resource.namespace, resource.name)?;
        changes.deleted.push((key, id(&format!("{at}.uid"), ResourceUid::new(resource.uid))?));
    }
    Ok(changes)
}

fn key(at: &str, namespace: String, name: String) -> Result<PolicyKey, End> {
    Ok(PolicyKey {
        namespace: id(&format!("{at}.namespace"), namespace.parse())?,
        name: id(&format!("{at}.name"), name.parse())?,
    })
}

/// The spec of a resource, through the same doors as a manifest that comes by call.
fn wanted(key: &PolicyKey, spec_json: &str) -> Result<Wanted, Vec<Violation>> {
    let fault = |value: String, problem: &str, remedy: &str| {
        let (problem, remedy) = (problem.to_owned(), remedy.to_owned());
        vec![Violation { field: "spec".to_owned(), value, problem, remedy }]
    };
    if spec_json.len() > MOST_SPEC {
        let problem = format!("is longer than {MOST_SPEC} bytes of JSON");
        return Err(fault(format!("{} bytes", spec_json.len()), &problem, "use several policies"));
    }
    // As a value first: the text itself must not be able to say anything outside its place.
    let spec = serde_json::from_str::<Value>(spec_json)
        .map_err(|error| fault(cut(spec_json), &format!("is not JSON: {error}"), SAME_VERSION))?;
    let whole = json!({
        "apiVersion": spec::API_VERSION,
        "kind": spec::KIND,
        "metadata": {"namespace": key.namespace, "name": key.name},
        "spec": spec,
    });
    let whole = whole.to_string();
    if whole.contains("\\u0000") {
        return Err(fault("\\u0000".to_owned(), "is a character that cannot be stored", "remove it"));
    }
    let manifest = manifest::parse_document(&whole).map_err(|violation| vec![violation])?;
    let policy = validate(&manifest)?;
    Ok(Wanted { manifest, policy })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PolicyKey {
        PolicyKey::new("shop", "checkout").unwrap()
    }

    const GOOD: &str = r#"{"listener":{"loadBalancer":"shared","port":80},"match":{"hostnames":["a.example.com"]},
        "backend":{"service":{"name":"web","port":"http"}},"clusters":[{"name":"blue","weight":100}]}"#;

    #[test]
    fn a_spec_is_read_as_a_manifest_of_that_name_would_be() {
        let read = wanted(&key(), GOOD).unwrap();
        assert_eq!(read.policy.key, key());
        let text = serde_json::to_string(&read.manifest).unwrap();
        assert_eq!(manifest::parse(&text).unwrap(), read.manifest);
    }

    #[test]
    fn what_cannot_be_taken_is_named_with_field_value_and_remedy() {
        let huge = format!("\"{}\"", "x".repeat(MOST_SPEC));
        let cases = [
            (GOOD.replace("100", "1000"), "spec.clusters[0].weight", "1000"),
            (GOOD.replace("\"port\":80", "\"prot\":80"), "spec.listener", "prot"),
            (GOOD.replace("100", "\"many\""), "spec.clusters[0].weight", "many"),
            (GOOD.replace("a.example.com", "a\\u0000.example.com"), "spec", "cannot be stored"),
            (huge, "spec", "65538 bytes"),
            ("{".to_owned(), "spec", "not JSON"),
            ("null".to_owned(), "spec", ""),
            // Were the text pasted into a manifest, it would speak of another policy.
            (format!("{GOOD}, \"metadata\": {{\"name\": \"other\"}}"), "spec", "not JSON"),
            ("[".repeat(10_000), "spec", "not JSON"),
        ];
        for (text, field, value) in cases {
            let faults = wanted(&key(), &text).unwrap_err();
            let shown = words(&faults);
            assert!(faults[0].field.starts_with(field), "{shown}");
            assert!(shown.contains(value), "{value}: {shown}");
            assert!(!faults[0].remedy.is_empty(), "{shown}");
        }
    }

    #[test]
    fn a_key_out_of_bounds_is_named() {
        let resource = proto::SourcePolicy {
            namespace: "shop".to_owned(),
            name: "checkout".to_owned(),
            uid: "uid-1".to_owned(),
            generation: 1,
            spec_json: GOOD.to_owned(),
        };
        let one = |resource: proto::SourcePolicy| {
            changes(proto::PolicyChanges { upserts: vec![resource], deleted: Vec::new() })
        };
        assert!(one(resource.clone()).unwrap().upserts[0].wanted.is_ok());
        let cases = [
            (proto::SourcePolicy { namespace: "Shop".to_owned(), ..resource.clone() }, "upserts[0].namespace"),
            (proto::SourcePolicy { name: String::new(), ..resource.clone() }, "upserts[0].name"),
            (proto::SourcePolicy { uid: "a b".to_owned(), ..resource.clone() }, "upserts[0].uid"),
            (proto::SourcePolicy { generation: 0, ..resource.clone() }, "upserts[0].generation"),
            (proto::SourcePolicy { generation: u64::MAX, ..resource }, "upserts[0].generation"),
        ];
        for (resource, field) in cases {
            let end = one(resource).unwrap_err();
            assert!(end.to_string().contains(field), "{end}");
        }
    }
}
