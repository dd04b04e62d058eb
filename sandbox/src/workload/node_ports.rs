//! What kube-proxy does on the nodes of a cluster, as far as clients outside see it: every node answers on every node port of
//! every Service and passes connections on to pods, and on health check node ports it says whether it has a pod of its own.
//!
//! Connections are passed on as they are (level 4): one stays with its pod until either side closes it, whatever becomes of the
//! pod's readiness meanwhile. Machines outlive their Node objects: who deletes a Node has not switched the machine off; the
//! control API does that.
//!
//! Reads the store only; the tasks end with the shutdown token. Tests are at the end of the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::served_at;
use crate::kube::kinds::{ENDPOINT_SLICES, NODES, SERVICES};
use crate::kube::object::Object;
use crate::kube::store::{Key, Store};
use crate::serve::{Connections, listen};

/// Changes taken from the log in one go.
const BATCH: usize = 1_024;
/// Between two looks at a busy cluster.
const PACE: Duration = Duration::from_millis(5);
/// How soon to try again to listen where something else still does.
const RETRY: Duration = Duration::from_millis(500);
/// How long a pod may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Told of each machine: its instance id, and its address while it runs.
pub type Machines = Arc<dyn Fn(&str, Option<Ipv4Addr>) + Send + Sync>;

/// A machine that is, or was, a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Machine {
    /// The name of its Node.
    node: String,
    ip: Ipv4Addr,
    instance: String,
}

/// A Service port, or the health of a Service, on a node port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Purpose {
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
struct Table {
    /// By Service and port name.
    backends: HashMap<(Key, String), Vec<Backend>>,
    /// Services whose requests stay on the node (`externalTrafficPolicy: Local`).
    local: BTreeSet<Key>,
}

impl Table {
    fn of(services: &[Arc<Object>], slices: &[Arc<Object>]) -> Self {
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
    fn choices(&self, service: &Key, port: &str, node: &str) -> Vec<SocketAddr> {
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
    fn ready_on(&self, service: &Key, node: &str) -> usize {
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

fn machine(node: &Object) -> Option<Machine> {
    let addresses = node.value().pointer("/status/addresses")?.as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let ip = internal["address"].as_str()?.parse().ok()?;
    let instance = node.text("/spec/providerID").rsplit('/').next().filter(|id| id.starts_with("i-"))?;
    Some(Machine { node: node.name().to_owned(), ip, instance: instance.to_owned() })
}

/// The node ports that a Service asks for.
fn node_ports(service: &Object) -> Vec<(u16, Purpose)> {
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

/// What the tasks share.
#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    /// By the name of the Node.
    running: Mutex<BTreeMap<String, Running>>,
    /// Nodes whose machines were switched off.
    ended: Mutex<BTreeSet<String>>,
}

/// A machine with what listens on it.
struct Running {
    machine: Machine,
    listeners: BTreeMap<u16, (Purpose, CancellationToken)>,
    /// Ends everything on the machine, connections included.
    off: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Holders insert, remove and read: what is in it is whole even after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The node ports of one cluster. Clones are handles to the same.
#[derive(Clone)]
pub struct NodePorts {
    store: Arc<Store>,
    machines: Machines,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl NodePorts {
    pub fn new(store: Arc<Store>, machines: Machines) -> Self {
        Self { store, machines, shared: Arc::default(), tasks: TaskTracker::new() }
    }

    /// Follows the cluster until the shutdown, then ends all that listens.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut changed = self.store.subscribe();
        let mut version = 0;
        loop {
            changed.mark_unchanged();
            let mut more = false;
            let relevant = match self.store.changes(version, BATCH) {
                Ok((reached, changes)) => {
                    version = version.max(reached);
                    more = changes.len() == BATCH;
                    changes.iter().any(|change| [NODES, SERVICES, ENDPOINT_SLICES].contains(&change.kind))
                }
                // The beginning, or somebody compacted the log under us.
                Err(_) => {
                    version = self.store.version();
                    true
                }
            };
            let complete = !relevant || self.follow(&shutdown);
            if !complete {
                // Looked at anew even when nothing happens.
                version = 0;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = std::future::ready(()), if more => {}
                news = changed.changed() => {
                    if news.is_err() {
                        break;
                    }
                    tokio::time::sleep(PACE).await;
                }
                () = tokio::time::sleep(RETRY), if !complete => {}
            }
        }
        lock(&self.shared.running).clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Switches the machine of a node off, as when an instance is terminated: nothing answers there any more, and connections
    /// break. The Node object stays. False when there is no such machine.
    pub fn switch_off(&self, node: &str) -> bool {
        let Some(gone) = lock(&self.shared.running).remove(node) else { return false };
        lock(&self.shared.ended).insert(node.to_owned());
        gone.off.cancel();
        (self.machines)(&gone.machine.instance, None);
        true
    }

    /// Brings everything in line with the store. False when something could not listen.
    fn follow(&self, shutdown: &CancellationToken) -> bool {
        let services = self.store.list(SERVICES, None).1;
        let wanted: BTreeMap<u16, Purpose> = services.iter().flat_map(|service| node_ports(service)).collect();
        *lock(&self.shared.table) = match wanted.is_empty() {
            true => Table::default(),
            false => Table::of(&services, &self.store.list(ENDPOINT_SLICES, None).1),
        };
        let machines: Vec<Machine> = self.store.list(NODES, None).1.iter().filter_map(|node| machine(node)).collect();
        let mut running = lock(&self.shared.running);
        for machine in machines {
            let new = !running.contains_key(&machine.node) && !lock(&self.shared.ended).contains(&machine.node);
            if new {
                (self.machines)(&machine.instance, Some(machine.ip));
                let off = shutdown.child_token();
                running.insert(machine.node.clone(), Running { machine, listeners: BTreeMap::new(), off });
            }
        }
        let mut complete = true;
        for running in running.values_mut() {
            complete &= self.listen_on(running, &wanted);
        }
        complete
    }

    fn listen_on(&self, running: &mut Running, wanted: &BTreeMap<u16, Purpose>) -> bool {
        running.listeners.retain(|port, (purpose, stop)| {
            let keep = wanted.get(port) == Some(purpose);
            if !keep {
                stop.cancel();
            }
            keep
        });
        let mut complete = true;
        for (port, purpose) in wanted {
            if running.listeners.contains_key(port) {
                continue;
            }
            let address = SocketAddr::from((served_at(running.machine.ip), *port));
            match listen(address) {
                Ok(listener) => {
                    let stop = running.off.child_token();
                    let server = Server {
                        shared: self.shared.clone(),
                        node: running.machine.node.clone(),
                        purpose: purpose.clone(),
                        off: running.off.clone(),
                        tasks: self.tasks.clone(),
                    };
                    self.tasks.spawn(server.run(listener, stop.clone()));
                    running.listeners.insert(*port, (purpose.clone(), stop));
                }
                Err(error) => {
                    complete = false;
                    tracing::warn!(node = %running.machine.node, %address, %error, "a node cannot listen on a node port; trying again");
                }
            }
        }
        complete
    }
}

/// What listens on one node port of one machine.
struct Server {
    shared: Arc<Shared>,
    node: String,
    purpose: Purpose,
    off: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let connections = Connections::default();
        let server = Arc::new(self);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => server.clone().serve(stream, &connections),
                    Err(error) => tracing::warn!(%error, node = %server.node, "a node could not accept a connection"),
                },
            }
        }
        drop(listener);
        connections.cut().await;
    }

    fn serve(self: Arc<Self>, stream: TcpStream, connections: &Connections) {
        match &self.purpose {
            Purpose::Health { .. } => {
                let answer = move |request| std::future::ready(self.health(&request));
                connections.spawn(stream, service_fn(answer));
            }
            Purpose::Traffic { service, port } => {
                let choices = lock(&self.shared.table).choices(service, port, &self.node);
                // Nobody to pass it on to: the client sees it closed, as by a reset.
                let Some(address) = choices.choose(&mut rand::rng()).copied() else { return };
                let off = self.off.clone();
                self.tasks.spawn(async move { off.run_until_cancelled(pass_on(stream, address)).await });
            }
        }
    }

    /// As kube-proxy answers on a health check node port, whatever the path.
    fn health(&self, _: &Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let Purpose::Health { service } = &self.purpose else { return Ok(Response::default()) };
        let count = lock(&self.shared.table).ready_on(service, &self.node);
        let body = json!({"service": {"namespace": service.0, "name": service.1}, "localEndpoints": count});
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = if count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Ok(response)
    }
}

/// Copies both ways until both sides have closed.
async fn pass_on(mut client: TcpStream, address: SocketAddr) {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let Ok(Ok(mut pod)) = connected else { return };
    // Small messages must not wait for Nagle's algorithm; without the option they are only slower.
    let _ = (client.set_nodelay(true), pod.set_nodelay(true));
    // How a connection ends is the business of those at its ends.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
}

#[cfg(test)]
mod tests {
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
