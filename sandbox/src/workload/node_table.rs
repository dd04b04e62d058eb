//! Which node ports there are and where a connection to one may go: the decisions of kube-proxy, as a table made of Services and
//! EndpointSlices. Pure. Tests are at the end of the file.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::addresses::served_at;
use crate::kube::object::Object;
use crate::kube::store::Key;

/// A machine that is, or was, a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The name of its Node.
    pub node: String,
    pub ip: Ipv4Addr,
    pub instance: String,
}

/// A Service port, or the health of a Service, on a node port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    Traffic { service: Key, port: String },
    Health { service: Key },
}

/// One endpoint of a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    address: SocketAddr,
    node: String,
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// What connections are passed on by.
#[derive(Debug, Default)]
pub struct Table {
    /// By Service and port name.
    backends: HashMap<(Key, String), Vec<Backend>>,
    /// Services whose requests stay on the node (`externalTrafficPolicy: Local`).
    local: BTreeSet<Key>,
}

impl Table {
    pub fn of(services: &[Arc<Object>], slices: &[Arc<Object>]) -> Self {
        let mut table = Self::default();
        for service in services {
            if service.text("/spec/externalTrafficPolicy") == "Local" {
                table.local.insert(key_of(service));
            }
        }
        for slice in slices.iter().filter(|slice| slice.text("/addressType") == "IPv4") {
            let Some(service) = slice.label("kubernetes.io/service-name") else { continue };
            let service = (slice.namespace().to_owned(), service.to_owned());
            let ports = slice.value()["ports"].as_array();
            let endpoints = slice.value()["endpoints"].as_array();
            for port in ports.into_iter().flatten() {
                let Some(number) = port["port"].as_u64().and_then(|port| u16::try_from(port).ok()) else { continue };
                let name = port["name"].as_str().unwrap_or_default().to_owned();
                let held = table.backends.entry((service.clone(), name)).or_default();
                held.extend(endpoints.into_iter().flatten().filter_map(|endpoint| backend(endpoint, number)));
            }
        }
        table
    }

    /// Where a connection may go: to ready pods; where there is none, to those that still answer while they terminate.
    pub fn choices(&self, service: &Key, port: &str, node: &str) -> Vec<SocketAddr> {
        let local = self.local.contains(service);
        let all = self.backends.get(&(service.clone(), port.to_owned())).into_iter().flatten();
        let here: Vec<&Backend> = all.filter(|backend| !local || backend.node == node).collect();
        let ready = |backend: &&&Backend| backend.ready;
        let finishing = |backend: &&&Backend| backend.serving && backend.terminating;
        let mut chosen: Vec<SocketAddr> = here.iter().filter(ready).map(|backend| backend.address).collect();
        if chosen.is_empty() {
            chosen = here.iter().filter(finishing).map(|backend| backend.address).collect();
        }
        chosen
    }

    /// Ready pods of the Service on this node, on any port.
    pub fn ready_on(&self, service: &Key, node: &str) -> usize {
        let of_service = self.backends.iter().filter(|((key, _), _)| key == service);
        let ready = of_service.flat_map(|(_, held)| held).filter(|backend| backend.ready && backend.node == node);
        ready.map(|backend| backend.address.ip()).collect::<BTreeSet<_>>().len()
    }
}

fn backend(endpoint: &Value, port: u16) -> Option<Backend> {
    let ip: Ipv4Addr = endpoint.pointer("/addresses/0")?.as_str()?.parse().ok()?;
    let conditions = &endpoint["conditions"];
    let ready = conditions["ready"].as_bool().unwrap_or(true);
    Some(Backend {
        address: SocketAddr::from((served_at(ip), port)),
        node: endpoint["nodeName"].as_str().unwrap_or_default().to_owned(),
        ready,
        serving: conditions["serving"].as_bool().unwrap_or(ready),
        terminating: conditions["terminating"].as_bool().unwrap_or(false),
    })
}

/// The machine of a node, when it has an address and is an instance.
pub fn machine(node: &Object) -> Option<Machine> {
    let addresses = node.value().pointer("/status/addresses")?.as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let ip = internal["address"].as_str()?.parse().ok()?;
    let instance = node.text("/spec/providerID").rsplit('/').next().filter(|id| id.starts_with("i-"))?;
    Some(Machine { node: node.name().to_owned(), ip, instance: instance.to_owned() })
}

/// The node ports that a Service asks for.
pub fn node_ports(service: &Object) -> Vec<(u16, Purpose)> {
    let key = key_of(service);
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let ports = service.value().pointer("/spec/ports").and_then(Value::as_array);
    let traffic = ports.into_iter().flatten().filter_map(|port| {
        let name = port["name"].as_str().unwrap_or_default().to_owned();
        Some((number(&port["nodePort"])?, Purpose::Traffic { service: key.clone(), port: name }))
    });
    let health = service.value().pointer("/spec/healthCheckNodePort").and_then(number);
    let health = health.map(|port| (port, Purpose::Health { service: key.clone() }));
    traffic.chain(health).collect()
}

fn key_of(object: &Object) -> Key {
    (object.namespace().to_owned(), object.name().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(policy: &str) -> Arc<Object> {
        Arc::new(Object::new(json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"externalTrafficPolicy": policy, "healthCheckNodePort": 32000,
                "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "inner", "port": 81}]},
        })))
    }

    fn endpoint(last: u8, node: &str, conditions: (bool, bool, bool)) -> Value {
        let (ready, serving, terminating) = conditions;
        json!({"addresses": [format!("127.20.1.{last}")], "nodeName": node,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    fn table(policy: &str, endpoints: Vec<Value>) -> Table {
        let slice = json!({"metadata": {"namespace": "shop", "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
        Table::of(&[service(policy)], &[Arc::new(Object::new(slice))])
    }

    fn choices(table: &Table, node: &str) -> Vec<String> {
        let found = table.choices(&("shop".to_owned(), "web".to_owned()), "http", node);
        found.into_iter().map(|address| address.ip().to_string()).collect()
    }

    const READY: (bool, bool, bool) = (true, true, false);
    const FINISHING: (bool, bool, bool) = (false, true, true);
    const SICK: (bool, bool, bool) = (false, false, false);

    #[test]
    fn a_service_asks_for_its_node_ports_and_its_health_check_port() {
        let key = ("shop".to_owned(), "web".to_owned());
        let expected = [
            (30080, Purpose::Traffic { service: key.clone(), port: "http".to_owned() }),
            (32000, Purpose::Health { service: key }),
        ];
        assert_eq!(node_ports(&service("Local")), expected);
    }

    #[test]
    fn any_node_reaches_any_pod_unless_requests_stay_on_their_node() {
        let endpoints = vec![endpoint(1, "n1", READY), endpoint(2, "n2", READY), endpoint(3, "n2", SICK)];
        assert_eq!(choices(&table("Cluster", endpoints.clone()), "n3"), ["127.20.1.1", "127.20.1.2"]);
        let local = table("Local", endpoints);
        assert_eq!(choices(&local, "n2"), ["127.20.1.2"]);
        assert!(choices(&local, "n3").is_empty());
        let key = ("shop".to_owned(), "web".to_owned());
        assert_eq!(["n1", "n2", "n3"].map(|node| local.ready_on(&key, node)), [1, 1, 0]);
    }

    #[test]
    fn pods_that_finish_are_used_only_where_no_ready_one_is_left() {
        let both = vec![endpoint(1, "n1", FINISHING), endpoint(2, "n2", READY)];
        assert_eq!(choices(&table("Cluster", both.clone()), "n1"), ["127.20.1.2"]);
        assert_eq!(choices(&table("Local", both), "n1"), ["127.20.1.1"], "its own last pod, until it is gone");
        assert!(choices(&table("Cluster", vec![endpoint(1, "n1", SICK)]), "n1").is_empty());
    }

    #[test]
    fn only_a_node_with_an_address_and_an_instance_is_a_machine() {
        let node = |provider: &str| {
            Object::new(json!({"metadata": {"name": "n1"}, "spec": {"providerID": provider},
                "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "127.20.224.1"}]}}))
        };
        let found = machine(&node("aws:///eu-central-1a/i-0123456789abcdef0")).unwrap();
        assert_eq!((found.instance.as_str(), found.ip.to_string().as_str()), ("i-0123456789abcdef0", "127.20.224.1"));
        assert_eq!(machine(&node("aws:///eu-central-1a/fargate-ip-10-0-0-1")), None);
        assert_eq!(machine(&Object::new(json!({"metadata": {"name": "n1"}}))), None);
    }
}
