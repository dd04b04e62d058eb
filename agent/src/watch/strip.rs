//! Strips Kubernetes objects to what the index keeps, on arrival. Everything is bounded here, and what cannot be read is left out.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, PodSpec, PodStatus, Service},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::PartialObjectMeta;

use crate::gates::objects::PREFIX;
use crate::index::{
    eni,
    objects::{
        ContainerPort, Family, InstanceId, NodeObject, NodeTarget, Object, PodObject, PodRef, ServiceObject,
        ServicePort, SliceEndpoint, SliceObject,
    },
};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Keeps a node out of every load balancer, whatever its value (well-known label of Kubernetes).
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Taints of nodes that are about to be deleted: of the Cluster Autoscaler, and of Karpenter from v1 on and before.
const LEAVING_TAINTS: [&str; 3] =
    ["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted", "karpenter.sh/disruption"];
/// A dual-stack pod has two.
const MAX_POD_IPS: usize = 8;
/// Far past what people write; at the bounds of labels these are 24 kB.
const MAX_SELECTOR: usize = 64;
/// Far past the pods of service meshes, which declare about ten.
const MAX_CONTAINER_PORTS: usize = 64;
/// One for each load balancer that gates the pod.
const MAX_READINESS_GATES: usize = 32;
/// Five of Kubernetes' own, and one for each gate.
const MAX_CONDITIONS: usize = 64;
/// All lists of one pod. Real pods need some 500 bytes; 500 of these bounds in one message are 2 MB, half of what gRPC accepts, so
/// that no pod's author can make a message that the hub refuses.
const MAX_POD_BYTES: usize = 4096;
/// The API server admits at most 1000 endpoints and 100 ports in a slice; the bound is for a server that does not.
const MAX_SLICE_ENDPOINTS: usize = 1000;
const MAX_SLICE_PORTS: usize = 100;

/// A Kubernetes kind that the agent watches.
pub trait Strip {
    /// What is kept of it; None for an object without a name, which no API server sends.
    fn strip(self) -> Option<Object>;
}

impl Strip for Service {
    fn strip(self) -> Option<Object> {
        let spec = self.spec.unwrap_or_default();
        let selector = spec.selector.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default().into_iter().filter_map(|port| {
            let name = port.name.unwrap_or_default();
            Some(ServicePort { name, port: port_number(port.port)?, node_port: port.node_port.unwrap_or_default() })
        });
        Some(Object::Service(ServiceObject {
            name: self.metadata.name?,
            ports: ports.collect(),
            primary_family: spec.ip_families.unwrap_or_default().first().and_then(|family| parse_family(family)),
            has_selector: !selector.is_empty(),
            selector: if selector.len() <= MAX_SELECTOR { selector } else { BTreeMap::new() },
            external_name: spec.type_.as_deref() == Some("ExternalName"),
            health_check_node_port: spec.health_check_node_port.unwrap_or_default(),
            deleting: self.metadata.deletion_timestamp.is_some(),
        }))
    }
}

impl Strip for EndpointSlice {
    fn strip(self) -> Option<Object> {
        let namespace = self.metadata.namespace.unwrap_or_default();
        let ports = self.ports.unwrap_or_default().into_iter().filter_map(|port| {
            let number = port_number(port.port?)?;
            Some((port.name.unwrap_or_default(), number))
        });
        let endpoints = self.endpoints.into_iter().take(MAX_SLICE_ENDPOINTS);
        Some(Object::EndpointSlice(SliceObject {
            name: self.metadata.name?,
            service: take_text(self.metadata.labels, SERVICE_NAME_LABEL),
            family: parse_family(&self.address_type),
            ports: ports.take(MAX_SLICE_PORTS).collect(),
            endpoints: endpoints.map(|endpoint| slice_endpoint(endpoint, &namespace)).collect(),
        }))
    }
}

impl Strip for Pod {
    fn strip(self) -> Option<Object> {
        let ObjectMeta { name, uid, annotations, deletion_timestamp, .. } = self.metadata;
        let status = self.status.unwrap_or_default();
        let spec = self.spec.unwrap_or_default();
        let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let identity = PodObject {
            name: name?,
            uid: uid.unwrap_or_default(),
            deletion_timestamp: deletion_timestamp.map(|time| time.0),
            finished,
            ..PodObject::default()
        };
        if finished {
            // A namespace full of finished jobs costs a name and a UID each.
            return Some(Object::Pod(Box::new(identity)));
        }
        let mut budget = Budget(MAX_POD_BYTES);
        let ips = pod_ips(&status);
        let enis = eni::parse(&take_text(annotations, eni::ANNOTATION));
        Some(Object::Pod(Box::new(PodObject {
            ips: budget.keep(ips, String::len),
            enis: budget.keep(enis, |eni| {
                eni.eni_id.len() + eni.private_ip.len() + eni.if_address.len() + eni.subnet_cidr.len()
            }),
            readiness_gates: budget.keep(readiness_gates(&spec), String::len),
            conditions: budget.keep(conditions(status), |(kind, status)| kind.len() + status.len()),
            container_ports: budget.keep(container_ports(&spec), |port| port.name.len() + port.protocol.len()),
            node: spec.node_name.unwrap_or_default(),
            ..identity
        })))
    }
}

impl Strip for PartialObjectMeta<Node> {
    fn strip(self) -> Option<Object> {
        let zone = take_text(self.metadata.labels, ZONE_LABEL);
        Some(Object::Node(NodeObject { name: self.metadata.name?, zone, target: None }))
    }
}

impl Strip for Node {
    fn strip(self) -> Option<Object> {
        let ObjectMeta { name, uid, labels, deletion_timestamp, .. } = self.metadata;
        let spec = self.spec.unwrap_or_default();
        let conditions = self.status.unwrap_or_default().conditions.unwrap_or_default();
        let excluded = labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDE_LABEL));
        let leaving = spec.taints.iter().flatten().any(|taint| LEAVING_TAINTS.contains(&taint.key.as_str()));
        let target = NodeTarget {
            uid: uid.unwrap_or_default(),
            instance: spec.provider_id.as_deref().and_then(instance_of),
            ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            excluded,
            leaving: leaving || deletion_timestamp.is_some(),
        };
        Some(Object::Node(NodeObject { name: name?, zone: take_text(labels, ZONE_LABEL), target: Some(target) }))
    }
}

/// The last part of a provider id as the AWS cloud provider writes it, `aws:///<zone>/<instance id>`; none for any other.
fn instance_of(provider_id: &str) -> Option<InstanceId> {
    let rest = provider_id.strip_prefix("aws://")?;
    InstanceId::new(rest.rsplit('/').next()?)
}

/// Bytes that a pod's lists may still take.
struct Budget(usize);

impl Budget {
    /// The items that fit, from the first; each costs its text and a few bytes around it.
    fn keep<T>(&mut self, items: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<T> {
        const AROUND: usize = 16;
        let fits = |item: &T| match self.0.checked_sub(size(item) + AROUND) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        };
        items.into_iter().take_while(fits).collect()
    }
}

fn slice_endpoint(endpoint: Endpoint, namespace: &str) -> SliceEndpoint {
    let conditions = endpoint.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let target = endpoint.target_ref.filter(|target| {
        // A Service selects pods of its own namespace only; a reference elsewhere is an address without a pod to us.
        target.kind.as_deref() == Some("Pod") && target.namespace.as_deref().is_none_or(|other| other == namespace)
    });
    SliceEndpoint {
        addresses: endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()).collect(),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        pod: target.and_then(|target| Some(PodRef { name: target.name?, uid: target.uid.unwrap_or_default() })),
        node: endpoint.node_name.unwrap_or_default(),
        zone: endpoint.zone.unwrap_or_default(),
    }
}

fn pod_ips(status: &PodStatus) -> Vec<String> {
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).chain(status.pod_ip.clone());
    let mut ips = Vec::new();
    for ip in all {
        if !ips.contains(&ip) && ips.len() < MAX_POD_IPS {
            ips.push(ip);
        }
    }
    ips
}

fn container_ports(spec: &PodSpec) -> Vec<ContainerPort> {
    // An init container that keeps running (a sidecar) may listen as well.
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        Some(ContainerPort {
            name: port.name.clone().unwrap_or_default(),
            port: port_number(port.container_port)?,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        })
    });
    ports.take(MAX_CONTAINER_PORTS).collect()
}

fn readiness_gates(spec: &PodSpec) -> Vec<String> {
    let gates = spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.clone());
    let mut gates: Vec<String> = gates.collect();
    // A gate of ours that were cut off would keep its pod waiting for ever.
    gates.sort_by_key(|gate| !gate.starts_with(PREFIX));
    gates.truncate(MAX_READINESS_GATES);
    gates
}

fn conditions(status: PodStatus) -> Vec<(String, String)> {
    let conditions = status.conditions.unwrap_or_default().into_iter();
    let mut conditions: Vec<_> =
        conditions.map(|condition| (condition.type_, condition.status)).take(MAX_CONDITIONS).collect();
    // The order has no meaning, and a change of it alone must not travel.
    conditions.sort();
    conditions
}

fn parse_family(text: &str) -> Option<Family> {
    match text {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|&port| port > 0)
}

fn take_text(map: Option<BTreeMap<String, String>>, key: &str) -> String {
    map.and_then(|mut map| map.remove(key)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> PodObject {
        match serde_json::from_value::<Pod>(value).expect("a pod").strip() {
            Some(Object::Pod(pod)) => *pod,
            other => panic!("not a pod: {other:?}"),
        }
    }

    fn slice(value: Value) -> SliceObject {
        match serde_json::from_value::<EndpointSlice>(value).expect("a slice").strip() {
            Some(Object::EndpointSlice(slice)) => slice,
            other => panic!("not a slice: {other:?}"),
        }
    }

    #[test]
    fn a_pod_keeps_what_the_hub_needs_and_nothing_else() {
        let stripped = pod(json!({
            "metadata": {"name": "web-0", "uid": "u", "deletionTimestamp": "2026-05-01T10:00:00Z",
                "annotations": {"vpc.amazonaws.com/pod-eni": r#"[{"eniId":"eni-1","privateIp":"10.0.0.9"}]"#}},
            "spec": {"nodeName": "n1", "readinessGates": [{"conditionType": "switchyard.dev/ready"}],
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "2001:db8::1"}],
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]}
        }));
        assert_eq!(stripped.ips, ["10.0.0.1", "2001:db8::1"]);
        assert_eq!(stripped.enis[0].private_ip, "10.0.0.9");
        let http = ContainerPort { name: "http".to_owned(), port: 8080, protocol: "TCP".to_owned() };
        assert_eq!(stripped.container_ports, [http]);
        assert_eq!(stripped.readiness_gates, ["switchyard.dev/ready"]);
        assert_eq!(stripped.conditions[0].0, "Initialized");
        assert_eq!(stripped.node, "n1");
        assert!(stripped.deletion_timestamp.is_some() && !stripped.finished);
    }

    #[test]
    fn a_finished_pod_keeps_only_who_it_was() {
        for phase in ["Succeeded", "Failed"] {
            let stripped = pod(json!({
                "metadata": {"name": "job-0", "uid": "u"}, "spec": {"nodeName": "n1", "containers": []},
                "status": {"phase": phase, "podIP": "10.0.0.1"}
            }));
            let expected =
                PodObject { name: "job-0".to_owned(), uid: "u".to_owned(), finished: true, ..PodObject::default() };
            assert_eq!(stripped, expected);
        }
    }

    #[test]
    fn a_pod_with_endless_lists_is_cut_to_its_budget() {
        let long = |n: usize| format!("example.com/{n}-{}", "x".repeat(280));
        let gates: Vec<Value> = (0..100).map(|n| json!({"conditionType": long(n)})).collect();
        let conditions: Vec<Value> = (0..100).map(|n| json!({"type": long(n), "status": "True"})).collect();
        let stripped = pod(json!({
            "metadata": {"name": "big-0", "uid": "u"},
            "spec": {"containers": [], "readinessGates": gates}, "status": {"podIP": "10.0.0.1", "conditions": conditions}
        }));
        let bytes: usize = stripped
            .readiness_gates
            .iter()
            .chain(stripped.conditions.iter().map(|(kind, _)| kind))
            .map(String::len)
            .sum();
        assert!(bytes <= MAX_POD_BYTES, "{bytes}");
        assert_eq!(stripped.ips, ["10.0.0.1"], "what is needed most comes first");
    }

    #[test]
    fn unknown_conditions_of_an_endpoint_read_as_the_kubernetes_api_says() {
        let stripped = slice(json!({
            "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "checkout"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}, {"name": "all"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web-0", "uid": "u", "namespace": "shop"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Pod", "name": "x", "uid": "u", "namespace": "other"}},
                {"addresses": ["host.example.com"]}
            ]
        }));
        assert_eq!((stripped.service.as_str(), stripped.family), ("checkout", Some(Family::V4)));
        assert_eq!(stripped.ports, [("http".to_owned(), 8080)]);
        let first = &stripped.endpoints[0];
        assert!(first.ready && first.serving && !first.terminating);
        assert_eq!(first.pod, Some(PodRef { name: "web-0".to_owned(), uid: "u".to_owned() }));
        assert!(!stripped.endpoints[1].ready && !stripped.endpoints[1].serving);
        assert_eq!(stripped.endpoints[2].pod, None, "a pod of another namespace is no pod of this Service");
        assert_eq!(stripped.endpoints[3].addresses, Vec::<IpAddr>::new());
    }

    #[test]
    fn a_service_keeps_its_ports_and_its_primary_family() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "checkout"},
            "spec": {"ipFamilies": ["IPv6", "IPv4"], "selector": {"app": "checkout"}, "healthCheckNodePort": 30100,
                "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"}, {"name": "bad", "port": 70000}]}
        }))
        .expect("a service");
        let Some(Object::Service(stripped)) = service.strip() else { panic!("not a service") };
        assert_eq!(stripped.primary_family, Some(Family::V6));
        assert_eq!(stripped.ports, [ServicePort { name: "http".to_owned(), port: 80, node_port: 30080 }]);
        assert!(stripped.has_selector && !stripped.external_name && !stripped.deleting);
        assert_eq!(stripped.health_check_node_port, 30100);
    }

    #[test]
    fn a_node_keeps_its_zone() {
        let node: PartialObjectMeta<Node> = serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "eu-central-1a"}}
        }))
        .expect("a node");
        let expected = NodeObject { name: "n1".to_owned(), zone: "eu-central-1a".to_owned(), target: None };
        assert_eq!(node.strip(), Some(Object::Node(expected)));
    }

    fn target(change: impl FnOnce(&mut Value)) -> NodeTarget {
        let mut node = json!({
            "metadata": {"name": "n1", "uid": "u", "labels": {"topology.kubernetes.io/zone": "eu-central-1a"}},
            "spec": {"providerID": "aws:///eu-central-1a/i-0123456789abcdef0"},
            "status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]}
        });
        change(&mut node);
        match serde_json::from_value::<Node>(node).expect("a node").strip() {
            Some(Object::Node(NodeObject { target: Some(target), zone, .. })) => {
                assert_eq!(zone, "eu-central-1a");
                target
            }
            other => panic!("not a node: {other:?}"),
        }
    }

    #[test]
    fn a_whole_node_keeps_what_makes_it_a_target() {
        let plain = target(|_| {});
        let expected = NodeTarget {
            uid: "u".to_owned(),
            instance: InstanceId::new("i-0123456789abcdef0"),
            ready: true,
            excluded: false,
            leaving: false,
        };
        assert_eq!(plain, expected);
        assert!(plain.instance.is_some());
        for status in ["False", "Unknown"] {
            assert!(!target(|node| node["status"]["conditions"][1]["status"] = json!(status)).ready);
        }
        assert!(!target(|node| node["status"] = json!({})).ready);
        let label = |node: &mut Value| node["metadata"]["labels"][EXCLUDE_LABEL] = json!("");
        assert!(target(label).excluded);
        let unschedulable = |node: &mut Value| node["spec"]["unschedulable"] = json!(true);
        assert_eq!(target(unschedulable), expected, "a cordoned node forwards as before");
    }

    #[test]
    fn a_node_leaves_when_it_is_being_deleted_or_an_autoscaler_says_so() {
        assert!(target(|node| node["metadata"]["deletionTimestamp"] = json!("2026-05-01T10:00:00Z")).leaving);
        for key in LEAVING_TAINTS {
            assert!(target(|node| node["spec"]["taints"] = json!([{"key": key, "effect": "NoSchedule"}])).leaving);
        }
        assert!(!target(|node| node["spec"]["taints"] = json!([{"key": "gpu", "effect": "NoSchedule"}])).leaving);
    }

    #[test]
    fn only_the_provider_id_of_an_instance_is_one() {
        let id = |provider_id: &str| instance_of(provider_id).map(|instance| instance.to_string());
        assert_eq!(id("aws:///eu-central-1a/i-0123456789abcdef0").as_deref(), Some("i-0123456789abcdef0"));
        assert_eq!(id("aws:///eu-central-1a/i-1a2b3c4d").as_deref(), Some("i-1a2b3c4d"));
        let others = [
            "",
            "aws:///eu-central-1a/",
            "aws:///eu-central-1a/0123-4567/fargate-ip-10-0-0-1.eu-central-1.compute.internal",
            "aws:///eu-central-1a/i-0123456789ABCDEF0",
            "aws:///eu-central-1a/i-0123",
            "gce://project/zone/i-0123456789abcdef0",
        ];
        for other in others {
            assert_eq!(id(other), None, "{other}");
        }
    }
}
