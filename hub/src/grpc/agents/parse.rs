//! From the agent's protobuf messages to checked types. Everything that is a key or a decision is refused when it is out of
//! bounds, naming the field; what is only shown to people (a pod's details) is cut instead, since one odd pod must not take its
//! cluster's stream down. Pure. Tests: `hub/tests/grpc_agents.rs`.

use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Value, json};
use switchyard_core::{
    ids::{ClusterName, Epoch, Namespace, PodUid, PolicyName, VpcId, cut},
    inventory::{EndpointKey, Evidence, ServiceCondition, ServiceKey, ServiceState, SourceProblem},
    observed::{Target, TargetId},
    policy::spec::TargetType,
};
use switchyard_proto::agent::v1 as proto;
use uuid::Uuid;

use super::state::{Hello, Inbound};
use crate::store::{AgentHello, EndpointChange, NewEndpoint, NewServiceState};

/// Items (service states, upserts, tombstones) in one message; the contract of the .proto file.
pub const MOST_ITEMS: usize = 500;
/// Sources in one message: four kinds in each of a thousand namespaces.
const MOST_SOURCES: usize = 4000;
/// Entries of the lists of a pod's details that are kept: as many as an agent keeps of a pod.
const MOST_IPS: usize = 8;
const MOST_PORTS: usize = 64;
const MOST_READINESS_GATES: usize = 32;
const MOST_CONDITIONS: usize = 64;
/// Bytes of a pod's details that are kept, as the agent sent them: a pod with ten containers, thirty ports and five interfaces has
/// some 2.5 kB. Of larger ones only what is decided by is kept.
const MOST_POD: usize = 8 * 1024;
/// Interfaces of a pod that stay in the hub's memory, and characters of each one's id: an id has 21 (`eni-` and 17 digits).
const MOST_ENIS: (usize, usize) = (16, 32);
/// Gates of policies that one pod carries: one for each policy of its Services.
const MOST_GATES: usize = 16;
/// Characters kept of a message for people (the bound that the .proto file names).
const MOST_TEXT: usize = 1024;
/// Features that an agent may name, and characters of each; the contract of the .proto file.
const MOST_FEATURES: (usize, usize) = (32, 64);
/// What the readiness gates of our policies begin with; the policy's name follows.
const GATE_PREFIX: &str = "target-health.switchyard.dev/";
/// The UID of an address that belongs to no pod.
const NO_POD: &str = "none";

/// A field of a message that is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?} {problem}; {remedy}")]
pub struct Malformed {
    /// Path of the field.
    pub field: String,
    /// As given, cut.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What helps.
    pub remedy: &'static str,
}

fn malformed(field: impl Into<String>, value: &str, problem: impl Into<String>, remedy: &'static str) -> Malformed {
    Malformed { field: field.into(), value: cut(value), problem: problem.into(), remedy }
}

const SAME_VERSION: &str = "use an agent and a hub of versions that fit together";

fn id<T>(field: &str, result: Result<T, switchyard_core::ids::IdError>) -> Result<T, Malformed> {
    result.map_err(|error| malformed(field, &error.value, error.problem, error.remedy))
}

/// At most `most` characters of a text that is shown to people, in one line and without what a terminal obeys.
pub(in crate::grpc) fn shown(text: String, most: usize) -> String {
    let text = match text.char_indices().nth(most) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    };
    if !text.contains(char::is_control) {
        return text;
    }
    let calm = |c: char| if c.is_whitespace() { ' ' } else { '\u{fffd}' };
    text.chars().map(|c| if c.is_control() { calm(c) } else { c }).collect()
}

/// A message as it arrived, checked.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// The first one.
    Hello(Box<Hello>),
    /// A sign of life.
    Heartbeat,
    /// Any other.
    Message(u64, Inbound),
}

/// Checks a message of an agent. The cluster is that of its Hello; before Hello there is none, and changes are then empty, since
/// the session refuses them by their place.
///
/// # Errors
/// `Malformed` for the first field that is out of bounds.
pub fn message(message: proto::AgentMessage, cluster: Option<&ClusterName>) -> Result<Parsed, Malformed> {
    use proto::agent_message::Message;
    let seq = message.seq;
    let Some(body) = message.message else {
        return Err(malformed("message", "", "is missing or of an unknown kind", SAME_VERSION));
    };
    let inbound = match body {
        Message::Hello(hello_) => return Ok(Parsed::Hello(Box::new(hello(hello_)?))),
        Message::Heartbeat(_) => return Ok(Parsed::Heartbeat),
        Message::SnapshotBegin(begin) => Inbound::SnapshotBegin {
            id: snapshot_id("snapshot_begin.snapshot_id", begin.snapshot_id)?,
            version: begin.watch_set_version,
        },
        Message::Changes(list) => Inbound::Changes(match cluster {
            Some(cluster) => changes(cluster, list)?,
            None => Vec::new(),
        }),
        Message::SnapshotEnd(end) => Inbound::SnapshotEnd {
            id: snapshot_id("snapshot_end.snapshot_id", end.snapshot_id)?,
            services: end.service_count,
            endpoints: end.endpoint_count,
        },
        Message::Live(live) => Inbound::Live { version: live.watch_set_version },
        Message::SourceStates(states) => Inbound::Sources(sources(states)?),
    };
    Ok(Parsed::Message(seq, inbound))
}

fn snapshot_id(field: &str, value: String) -> Result<String, Malformed> {
    if value.is_empty() || value.len() > 128 {
        return Err(malformed(field, &value, "has no usable length", "use 1 to 128 characters"));
    }
    Ok(value)
}

fn hello(hello: proto::Hello) -> Result<Hello, Malformed> {
    let instance = hello.agent_instance_id;
    let agent_instance_id = Uuid::parse_str(&instance).map_err(|_| {
        malformed("hello.agent_instance_id", &instance, "is not a UUID", "use a new UUID for each agent process")
    })?;
    let region = hello.region;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || region.len() > 32 || !region.chars().all(good) {
        return Err(malformed("hello.region", &region, "is not a region", "use its code, such as eu-central-1"));
    }
    Ok(Hello {
        highest_epoch: Epoch(hello.highest_epoch_seen),
        agent: AgentHello {
            cluster: id("hello.cluster", ClusterName::new(hello.cluster))?,
            region,
            vpc_id: id("hello.vpc_id", VpcId::new(hello.vpc_id))?,
            agent_instance_id,
            agent_version: shown(hello.agent_version, 64),
            features: features(hello.features),
            last_acked_seq: hello.last_acked_seq,
            watch_set_version: hello.watch_set_version,
        },
    })
}

/// Features that this hub does not know do no harm.
fn features(named: Vec<String>) -> Vec<String> {
    let (most, longest) = MOST_FEATURES;
    named.into_iter().take(most).map(|feature| shown(feature, longest)).collect()
}

fn changes(cluster: &ClusterName, list: proto::Changes) -> Result<Vec<EndpointChange>, Malformed> {
    let count = list.services.len() + list.upserts.len() + list.tombstones.len();
    if count > MOST_ITEMS {
        let problem = format!("is the number of items, {MOST_ITEMS} are allowed");
        return Err(malformed("changes", &count.to_string(), problem, "send more and smaller messages"));
    }
    let mut result = Vec::with_capacity(count);
    for (i, state) in list.services.into_iter().enumerate() {
        result.push(service_state(&format!("changes.services[{i}]"), state)?);
    }
    // Tombstones first: were an endpoint in both lists, it is there now.
    for (i, tombstone) in list.tombstones.into_iter().enumerate() {
        result.push(gone(cluster, &format!("changes.tombstones[{i}]"), tombstone)?);
    }
    for (i, endpoint) in list.upserts.into_iter().enumerate() {
        result.push(upsert(cluster, &format!("changes.upserts[{i}]"), endpoint)?);
    }
    Ok(result)
}

fn service_ref(at: &str, service: Option<proto::ServiceRef>) -> Result<ServiceKey, Malformed> {
    let Some(service) = service else {
        return Err(malformed(format!("{at}.service"), "", "is missing", "name the Service"));
    };
    let target_type = match proto::TargetType::try_from(service.target_type) {
        Ok(proto::TargetType::Unspecified) => TargetType::Ip,
        Ok(proto::TargetType::Instance) => TargetType::Instance,
        Err(_) => return Err(unknown_value(format!("{at}.service.target_type"), service.target_type)),
    };
    Ok(ServiceKey {
        target_type,
        namespace: id(&format!("{at}.service.namespace"), Namespace::new(service.namespace))?,
        name: id(&format!("{at}.service.name"), service.name.parse())?,
        port: id(&format!("{at}.service.port"), service.port.parse())?,
    })
}

fn service_state(at: &str, state: proto::ServiceState) -> Result<EndpointChange, Malformed> {
    use proto::ServiceCondition as Given;
    let field = format!("{at}.condition");
    let condition = match Given::try_from(state.condition) {
        Ok(Given::Resolved) => ServiceCondition::Resolved,
        Ok(Given::NotFound) => ServiceCondition::NotFound,
        Ok(Given::PortNotFound) => ServiceCondition::PortNotFound,
        Ok(Given::NoSelectedPods) => ServiceCondition::NoSelectedPods,
        Ok(Given::NoNodePort) => ServiceCondition::NoNodePort,
        Ok(Given::Unspecified) | Err(_) => return Err(unknown_value(field, state.condition)),
    };
    let node_port = |field: &str, value: i32| {
        let at = format!("{at}.{field}");
        u16::try_from(value).map_err(|_| malformed(at, &value.to_string(), "is not a port", "use 0 to 65535"))
    };
    let health = node_port("health_check_node_port", state.health_check_node_port)?;
    let described = NewServiceState {
        state: ServiceState {
            condition,
            message: shown(state.message, MOST_TEXT),
            health_check_node_port: Some(health).filter(|port| *port > 0),
        },
        node_port: node_port("node_port", state.node_port)?,
    };
    let key = service_ref(at, state.service)?;
    if condition == ServiceCondition::NoNodePort && !key.targets_nodes() {
        return Err(malformed(field, "NO_NODE_PORT", "is said of a Service that is watched for pods", SAME_VERSION));
    }
    Ok(EndpointChange::Service(key, described))
}

fn unknown_value(field: String, value: i32) -> Malformed {
    malformed(field, &value.to_string(), "is not a known value", SAME_VERSION)
}

/// An address where pods are watched for, and an instance where nodes are: one for the other would be refused by AWS, with all
/// that is registered beside it.
fn target(at: &str, service: &ServiceKey, address: &str, port: u32) -> Result<Target, Malformed> {
    let field = || format!("{at}.address");
    let parsed = address.parse::<TargetId>().ok();
    let id = match (parsed, service.target_type) {
        (Some(id @ TargetId::Ip(_)), TargetType::Ip) | (Some(id @ TargetId::Instance(_)), TargetType::Instance) => id,
        (_, TargetType::Ip) => {
            let remedy = "use an IPv4 or IPv6 address without a zone";
            return Err(malformed(field(), address, "is not an address", remedy));
        }
        (_, TargetType::Instance) => {
            let remedy = "use the instance id of the node, such as i-0123456789abcdef0";
            return Err(malformed(field(), address, "is not the id of an instance", remedy));
        }
    };
    let port_ = u16::try_from(port).ok().filter(|port| *port > 0);
    let port_ = port_.ok_or_else(|| {
        let remedy = "use the resolved target port, 1 to 65535";
        malformed(format!("{at}.port"), &port.to_string(), "is not a port", remedy)
    })?;
    Ok(Target { id, port: port_ })
}

fn pod_uid(field: &str, uid: &str) -> Result<PodUid, Malformed> {
    id(field, PodUid::new(if uid.is_empty() { NO_POD } else { uid }))
}

fn gone(cluster: &ClusterName, at: &str, tombstone: proto::Tombstone) -> Result<EndpointChange, Malformed> {
    use proto::TombstoneReason as Given;
    let evidence = match Given::try_from(tombstone.reason) {
        Ok(Given::PodDeleted) => Evidence::PodDeleted,
        Ok(Given::NotSelected) => Evidence::NotSelected,
        Ok(Given::ServiceDeleted) => Evidence::ServiceDeleted,
        Ok(Given::PortChanged) => Evidence::PortChanged,
        Ok(Given::AbsentFromList) => Evidence::Absent,
        Ok(Given::Unspecified) | Err(_) => return Err(unknown_value(format!("{at}.reason"), tombstone.reason)),
    };
    let service = service_ref(at, tombstone.service)?;
    let key = EndpointKey {
        cluster: cluster.clone(),
        target: target(at, &service, &tombstone.address, tombstone.port)?,
        pod_uid: pod_uid(&format!("{at}.pod_uid"), &tombstone.pod_uid)?,
        service,
    };
    Ok(EndpointChange::Gone(key, evidence))
}

fn upsert(cluster: &ClusterName, at: &str, endpoint: proto::Endpoint) -> Result<EndpointChange, Malformed> {
    let pod = endpoint.pod.unwrap_or_default();
    let service = service_ref(at, endpoint.service)?;
    let key = EndpointKey {
        cluster: cluster.clone(),
        target: target(at, &service, &endpoint.address, endpoint.port)?,
        pod_uid: pod_uid(&format!("{at}.pod.uid"), &pod.uid)?,
        service,
    };
    let details = details(&pod);
    let (most, longest) = MOST_ENIS;
    let eni_ids = pod.enis.into_iter().map(|eni| eni.eni_id).filter(|id| !id.is_empty()).take(most);
    let eni_ids = eni_ids.map(|id| shown(id, longest)).collect();
    let new = NewEndpoint {
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        pod_name: shown(pod.name, 253),
        node: shown(pod.node, 253),
        zone: shown(pod.zone, 64),
        eni_ids,
        gates: gates(&pod.readiness_gates),
        pod: details,
    };
    Ok(EndpointChange::Upsert(key, new))
}

/// The policies whose gates the pod carries. A gate whose rest is no policy's name is nobody's, and waits for nobody here.
fn gates(readiness_gates: &[String]) -> Vec<PolicyName> {
    let ours = readiness_gates.iter().take(MOST_READINESS_GATES).filter_map(|gate| gate.strip_prefix(GATE_PREFIX));
    let mut gates: Vec<PolicyName> = ours.filter_map(|name| name.parse().ok()).collect();
    gates.sort();
    gates.dedup();
    gates.truncate(MOST_GATES);
    gates
}

/// What is stored of a pod beside what the hub decides by, as JSON; for people and for later features. What says nothing is left out:
/// an empty entry has two bytes on the wire and eighty in here.
fn details(pod: &proto::PodInfo) -> Box<str> {
    let text = |text: &str| shown(text.to_owned(), 253);
    let as_text = |value: Value| value.to_string().into_boxed_str();
    if pod.encoded_len() > MOST_POD {
        return as_text(json!({"namespace": text(&pod.namespace), "cut": true}));
    }
    let list = |items: &[String], most: usize| -> Vec<String> {
        items.iter().take(most).filter(|item| !item.is_empty()).map(|item| text(item)).collect()
    };
    let deletion = pod.deletion_timestamp.as_ref();
    let deletion = deletion.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    let enis = some(&pod.enis, MOST_ENIS.0).map(|eni| {
        json!({
            "eniId": text(&eni.eni_id), "privateIp": text(&eni.private_ip), "ifAddress": text(&eni.if_address),
            "vlanId": eni.vlan_id, "subnetCidr": text(&eni.subnet_cidr),
        })
    });
    let ports = some(&pod.container_ports, MOST_PORTS);
    let ports =
        ports.map(|port| json!({"name": text(&port.name), "port": port.port, "protocol": text(&port.protocol)}));
    let conditions = some(&pod.conditions, MOST_CONDITIONS);
    let conditions = conditions.map(|c| json!({"type": text(&c.r#type), "status": text(&c.status)}));
    as_text(json!({
        "namespace": text(&pod.namespace),
        "ips": list(&pod.ips, MOST_IPS),
        "enis": enis.collect::<Vec<_>>(),
        "containerPorts": ports.collect::<Vec<_>>(),
        "readinessGates": list(&pod.readiness_gates, MOST_READINESS_GATES),
        "conditions": conditions.collect::<Vec<_>>(),
        "deletionTimestamp": deletion.map(|at| at.to_string()),
    }))
}

/// The first of a list, but for those that say nothing.
fn some<T: Default + PartialEq>(items: &[T], most: usize) -> impl Iterator<Item = &T> {
    items.iter().take(most).filter(|item| **item != T::default())
}

/// The sources that fail; the others say nothing that is stored.
fn sources(states: proto::SourceStates) -> Result<Vec<SourceProblem>, Malformed> {
    use proto::SourceHealth as Given;
    if states.sources.len() > MOST_SOURCES {
        let count = states.sources.len().to_string();
        let problem = format!("is the number of sources, {MOST_SOURCES} are allowed");
        return Err(malformed("source_states.sources", &count, problem, "watch fewer namespaces"));
    }
    let mut problems = Vec::new();
    // More are not stored; see `Store::session_sources`.
    const MOST_PROBLEMS: usize = 100;
    for (i, source) in states.sources.into_iter().enumerate() {
        match Given::try_from(source.health) {
            Ok(Given::Failing) if problems.len() >= MOST_PROBLEMS => {}
            Ok(Given::Failing) => problems.push(SourceProblem {
                namespace: shown(source.namespace, 63),
                kind: shown(source.kind, 63),
                message: shown(source.message, MOST_TEXT),
            }),
            Ok(Given::Syncing | Given::Synced) => {}
            Ok(Given::Unspecified) | Err(_) => {
                let field = format!("source_states.sources[{i}].health");
                return Err(unknown_value(field, source.health));
            }
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_to_people_is_cut_and_moves_no_cursor() {
        assert_eq!(shown("1.0".to_owned(), 64), "1.0");
        assert_eq!(shown("äöü".to_owned(), 2), "äö");
        let evil = "1.0\r\nERROR all is lost\u{1b}[31m\u{9b}2J\0".to_owned();
        assert_eq!(shown(evil, 64), "1.0  ERROR all is lost\u{fffd}[31m\u{fffd}2J\u{fffd}");
    }

    #[test]
    fn of_a_pod_with_too_many_details_only_what_counts_is_kept() {
        let condition =
            |i: usize| proto::PodCondition { r#type: format!("{i}{}", "x".repeat(240)), status: "True".to_owned() };
        let pod = |count| proto::PodInfo {
            namespace: "shop".to_owned(),
            readiness_gates: (0..100).map(|i| format!("{GATE_PREFIX}p{i}")).collect(),
            conditions: (0..count).map(condition).collect(),
            ..proto::PodInfo::default()
        };
        let kept = |count| serde_json::from_str::<Value>(&details(&pod(count))).unwrap();
        assert_eq!(kept(3)["conditions"].as_array().unwrap().len(), 3);
        assert_eq!(kept(1000), json!({"namespace": "shop", "cut": true}));
        assert_eq!(gates(&pod(0).readiness_gates).len(), MOST_GATES);
    }
    #[test]
    fn what_is_empty_in_a_pod_takes_nothing() {
        let pod = proto::PodInfo {
            ips: vec![String::new(); 64],
            enis: vec![proto::EniInfo::default(); 64],
            container_ports: vec![proto::ContainerPort::default(); 64],
            readiness_gates: vec![String::new(); 64],
            conditions: vec![proto::PodCondition::default(); 64],
            ..proto::PodInfo::default()
        };
        let nothing = details(&proto::PodInfo::default());
        assert_eq!(details(&pod), nothing);
        assert!(nothing.len() < 200, "{nothing}");
    }
}
