//! From the messages of a stream of shifts to checked types. What is a key is refused when it is out of bounds, naming the field: the
//! stream ends. What is the content of one resource becomes a refusal of that resource, since the user who wrote it must see why,
//! and the others must not wait for it. Pure.

use switchyard_core::{
    access::{Grants, Role, Touch},
    ids::{ClusterName, Epoch, IdError, Namespace, PolicyName, ResourceUid, cut},
    policy::Violation,
    shift::{ShiftSpec, machine::Command, spec::MOST_REASON, validate, validate::ShiftPlan},
    source::words,
};
use switchyard_proto::agent::v1::{self as proto, sync_shifts_request::Message};
use uuid::Uuid;

use crate::grpc::{
    agents::parse::shown,
    rights::{GateSources, unknown_sources},
    shifts::bounded,
    sources::End,
};

/// Bytes of one spec; the contract of the .proto file.
const MOST_SPEC: usize = 64 * 1024;

/// Characters of what a reader of JSON says.
const MOST_FAULT: usize = 256;

/// ShiftSourceHello.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Who.
    pub cluster: ClusterName,
    /// The agent process.
    pub instance: Uuid,
    /// The highest epoch that it has seen.
    pub highest_epoch: Epoch,
}

/// A resource, checked.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: String,
    /// Which it is.
    pub uid: ResourceUid,
    /// Of its spec.
    pub generation: u64,
    /// What it says to its shift under way, also where no new shift would be made of it any more, such as on a hub that was started
    /// without the source of its gate; empty: it cannot be read.
    pub said: Vec<Command>,
    /// Why, as its author said, at most [`MOST_REASON`] characters.
    pub reason: String,
    /// The shift that it asks for; or why that cannot be taken, in words.
    pub asked: Result<ShiftPlan, String>,
    /// True when it asks for more than resources of its cluster may.
    pub lacks_a_right: bool,
}

/// What a resource may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// The cluster that it stands in.
    pub cluster: &'a ClusterName,
    /// What gates may be measured with.
    pub gate_sources: &'a GateSources,
    /// What resources of the cluster may do.
    pub grants: &'a Grants,
}

fn malformed(field: &str, value: &str, problem: impl Into<String>, remedy: &str) -> End {
    let (field, value) = (field.to_owned(), cut(value));
    End::Malformed(Violation { field, value, problem: problem.into(), remedy: remedy.to_owned() })
}

fn id<T>(field: &str, result: Result<T, IdError>) -> Result<T, End> {
    result.map_err(|error| malformed(field, &error.value, error.problem, error.remedy))
}

const SAME_VERSION: &str = "use an agent and a hub of versions that fit together";

/// The first message.
///
/// # Errors
/// [`End`] when it is none, or a field is out of bounds.
pub fn hello(message: proto::SyncShiftsRequest) -> Result<Hello, End> {
    let Some(Message::Hello(hello)) = message.message else {
        return Err(End::OutOfOrder { message: "a message", place: "before ShiftSourceHello" });
    };
    let instance = Uuid::parse_str(&hello.agent_instance_id)
        .map_err(|_| malformed("hello.agent_instance_id", &hello.agent_instance_id, "is no UUID", SAME_VERSION))?;
    Ok(Hello {
        cluster: id("hello.cluster", hello.cluster.parse())?,
        instance,
        highest_epoch: Epoch(hello.highest_epoch_seen),
    })
}

/// What comes after it.
///
/// # Errors
/// [`End`] when it has no place here, or a key is out of bounds.
pub fn resource(message: proto::SyncShiftsRequest, rights: Rights<'_>) -> Result<Resource, End> {
    let Some(Message::Resource(resource)) = message.message else {
        return Err(End::OutOfOrder { message: "a message that is no resource", place: "after ShiftSourceHello" });
    };
    // A resource's name has the form of a policy's: an RFC 1123 subdomain.
    let name: PolicyName = id("resource.name", resource.name.parse())?;
    let namespace: Namespace = id("resource.namespace", resource.namespace.parse())?;
    let uid = id("resource.uid", resource.uid.parse())?;
    if resource.generation == 0 || i64::try_from(resource.generation).is_err() {
        return Err(malformed(
            "resource.generation",
            &resource.generation.to_string(),
            "is out of bounds",
            SAME_VERSION,
        ));
    }
    let (name, generation, spec) = (name.to_string(), resource.generation, spec(&resource.spec_json));
    let (said, reason) = spec.as_ref().map(|spec| (spec.controls(), reason(spec))).unwrap_or_default();
    let crosses = |spec: &ShiftSpec| crosses_rules(spec, &namespace, rights);
    let lacking = spec.as_ref().ok().and_then(crosses);
    let lacks_a_right = lacking.is_some();
    let asked = spec.and_then(|spec| asked(&spec, &namespace, rights.gate_sources, lacking));
    Ok(Resource { namespace, name, uid, generation, said, reason, asked, lacks_a_right })
}

fn spec(text: &str) -> Result<ShiftSpec, String> {
    if text.len() > MOST_SPEC {
        let bytes = text.len();
        return Err(format!("spec has {bytes} bytes as JSON and at most {MOST_SPEC} are taken; use several shifts"));
    }
    serde_json::from_str(text).map_err(|error| {
        // It repeats names and values of the spec, whatever is in them.
        let error = shown(error.to_string(), MOST_FAULT);
        format!("spec cannot be read: {error}; see kubectl explain tshift.spec")
    })
}

/// As the audit log takes it, whatever is wrong with the rest.
fn reason(spec: &ShiftSpec) -> String {
    spec.reason.chars().filter(|c| *c != '\0').take(MOST_REASON).collect()
}

/// What is wrong when the resource crosses safety rules, and those of its cluster may not.
fn crosses_rules(spec: &ShiftSpec, namespace: &Namespace, rights: Rights<'_>) -> Option<Violation> {
    let may = || rights.grants.check_overrides(Role::Operator, &Touch::Policy(namespace)).is_ok();
    if spec.overrides.is_empty() || may() {
        return None;
    }
    let cluster = rights.cluster;
    Some(Violation {
        field: "spec.overrides".to_owned(),
        value: spec.overrides.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        problem: format!("cannot be asked for by resources of cluster {cluster} in namespace {namespace}"),
        remedy: format!(
            "leave it out, or give the subject {{cluster: {cluster}}} a binding with overrides: true (docs/access.md)"
        ),
    })
}

fn asked(
    spec: &ShiftSpec,
    namespace: &Namespace,
    gate_sources: &GateSources,
    lacking: Option<Violation>,
) -> Result<ShiftPlan, String> {
    let mut violations = unknown_sources(spec, gate_sources);
    let plan = match validate(spec, namespace, true) {
        Ok(plan) => Some(plan),
        Err(found) => {
            violations.extend(found);
            None
        }
    };
    violations.extend(lacking);
    violations.extend(plan.as_ref().and_then(|plan| bounded(plan).err()));
    match plan {
        Some(plan) if violations.is_empty() => Ok(plan),
        _ => Err(words(&violations)),
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::access::Grants;

    use super::*;

    fn refused(spec_json: &str) -> String {
        let resource = proto::TrafficShiftResource {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            generation: 1,
            spec_json: spec_json.to_owned(),
        };
        let message = proto::SyncShiftsRequest { message: Some(Message::Resource(resource)) };
        let (cluster, gate_sources, grants) = ("blue".parse().unwrap(), GateSources::default(), Grants::none());
        let rights = Rights { cluster: &cluster, gate_sources: &gate_sources, grants: &grants };
        super::resource(message, rights).unwrap().asked.unwrap_err()
    }

    #[test]
    fn what_a_spec_holds_moves_no_cursor_and_fills_no_log() {
        let long = format!("{{\"{}\": 1}}", "x".repeat(60_000));
        for spec in [long.as_str(), r#"{"\u001b[2J\r\n": 1}"#, r#"{"policies": "\u001b[31m"}"#, "\u{1b}["] {
            let why = refused(spec);
            assert!(why.starts_with("spec cannot be read: "), "{why:?}");
            assert!(why.chars().count() < 400 && !why.contains(char::is_control), "{why:?}");
        }
    }
}
