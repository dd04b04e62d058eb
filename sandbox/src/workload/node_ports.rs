//! What kube-proxy does on the nodes of a cluster, as far as clients outside see it: every node answers on every node port of
//! every Service and passes connections on to pods, and on health check node ports it says whether it has a pod of its own.
//!
//! Connections are passed on as they are (level 4): one stays with its pod until either side closes it, whatever becomes of the
//! pod's readiness meanwhile. Machines outlive their Node objects: who deletes a Node has not switched the machine off; the
//! control API does that.
//!
//! What goes where is decided in `node_table`; this is the IO. Reads the store only; the tasks end with the shutdown token.
//! Tests: `sandbox/tests/kube_nodes.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use rand::seq::IndexedRandom;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::node_table::{Machine, Purpose, Table, machine, node_ports};
use super::reach::{Reach, Reaches};
use crate::addresses::served_at;
use crate::kube::kinds::{ENDPOINT_SLICES, NODES, SERVICES};
use crate::kube::store::Store;
use crate::serve::{Connections, listen};

/// Changes taken from the log in one go.
const BATCH: usize = 1_024;
/// Between two looks at a busy cluster.
const PACE: Duration = Duration::from_millis(5);
/// How soon to try again to listen where something else still does.
const RETRY: Duration = Duration::from_millis(500);
/// After an error of accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a pod may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Told of each machine: its instance id, and its address while it runs.
pub type Machines = Arc<dyn Fn(&str, Option<Ipv4Addr>) + Send + Sync>;

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
    reaches: Reaches,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl NodePorts {
    pub fn new(store: Arc<Store>, machines: Machines, reaches: Reaches) -> Self {
        Self { store, machines, reaches, shared: Arc::default(), tasks: TaskTracker::new() }
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
                        reaches: self.reaches.clone(),
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
    reaches: Reaches,
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
                    Err(error) => {
                        tracing::warn!(%error, node = %server.node, "a node could not accept a connection and tries again");
                        // Without file descriptors it fails at once, again and again.
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        connections.cut().await;
    }

    fn serve(self: Arc<Self>, stream: TcpStream, connections: &Connections) {
        match self.reaches.now().of(&self.node) {
            Reach::Alive => {}
            // Closed at once: to the client as good as refused.
            Reach::Dead => return,
            Reach::Silent => {
                self.tasks.clone().spawn(async move {
                    self.off.run_until_cancelled(self.leaves(Reach::Silent)).await;
                    drop(stream);
                });
                return;
            }
        }
        match &self.purpose {
            Purpose::Health { .. } => {
                let answer = move |request| std::future::ready(self.health(&request));
                connections.spawn(stream, service_fn(answer));
            }
            Purpose::Traffic { service, port } => {
                let choices = lock(&self.shared.table).choices(service, port, &self.node);
                // Nobody to pass it on to: the client sees it closed, as by a reset.
                let Some(address) = choices.choose(&mut rand::rng()).copied() else { return };
                self.tasks.clone().spawn(async move {
                    tokio::select! {
                        () = self.off.cancelled() => {}
                        () = self.leaves(Reach::Alive) => {}
                        () = pass_on(stream, address) => {}
                    }
                });
            }
        }
    }

    /// Waits until the reach of the node is another one.
    async fn leaves(&self, reach: Reach) {
        // An error means that the cluster is gone, and the connection goes with it.
        let _ = self.reaches.subscribe().wait_for(|map| map.of(&self.node) != reach).await;
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
