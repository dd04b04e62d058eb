//! Whether the pods and node ports of a cluster can be reached over the network, as a load balancer sees it: the part of a
//! cluster's life that Kubernetes does not know of. A cluster, or some of its nodes, can be dead or silent while every object says
//! that all is well; only a node that was noticed as lost shows in the objects, which is `kubelet`'s business.
//!
//! Holds the state and changes it, also by a clock where it flaps; touches no socket. Tests are at the end of the file, and
//! `sandbox/tests/dataplane.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What becomes of packets, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    #[default]
    Alive,
    /// Connections are taken and never answered, as by a firewall that swallows what follows, or a host that hangs.
    Silent,
    /// Connections are refused, and those that were there break.
    Dead,
}

/// The reach of everything in one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReachMap {
    /// Of all nodes.
    pub cluster: Reach,
    /// Of some; what is not here is alive.
    pub nodes: BTreeMap<String, Reach>,
    /// Nodes whose machines are away.
    pub gone: BTreeSet<String>,
    /// Those of them that the cluster's own control plane has given up: their pods are not ready any more, and get no company.
    pub lost: BTreeSet<String>,
}

impl ReachMap {
    /// The worst of what is said of the cluster, the node and its machine.
    pub fn of(&self, node: &str) -> Reach {
        let machine = if self.gone.contains(node) { Reach::Silent } else { Reach::Alive };
        self.nodes.get(node).copied().unwrap_or_default().max(self.cluster).max(machine)
    }

    fn set(&mut self, nodes: Option<&BTreeSet<String>>, reach: Reach) {
        match nodes {
            // Everything, so that `alive` for a cluster leaves nothing behind.
            None => {
                self.cluster = reach;
                if reach == Reach::Alive {
                    self.nodes.clear();
                }
            }
            Some(nodes) => nodes.iter().for_each(|node| _ = self.nodes.insert(node.clone(), reach)),
        }
        self.nodes.retain(|_, reach| *reach != Reach::Alive);
    }
}

/// How long each part of a flap lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flap {
    pub down: Duration,
    pub up: Duration,
}

/// The reach of one cluster, and who changes it. Clones are handles to the same.
#[derive(Clone)]
pub struct Reaches {
    map: Arc<watch::Sender<ReachMap>>,
    /// Ends the flapping that is under way.
    flapping: Arc<Mutex<CancellationToken>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Reaches {
    /// Everything alive; what flaps does so in tasks of this tracker until the shutdown.
    pub fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        let flapping = Arc::new(Mutex::new(shutdown.child_token()));
        Self { map: Arc::new(watch::Sender::new(ReachMap::default())), flapping, tasks, shutdown }
    }

    pub fn now(&self) -> ReachMap {
        self.map.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<ReachMap> {
        self.map.subscribe()
    }

    /// Sets the reach of some nodes, or of the whole cluster; ends any flapping. With `flap` it goes on between this reach and
    /// alive until the next call.
    pub fn set(&self, nodes: Option<BTreeSet<String>>, reach: Reach, flap: Option<Flap>) {
        let token = self.end_flapping();
        self.map.send_modify(|map| map.set(nodes.as_ref(), reach));
        let Some(flap) = flap else { return };
        let map = self.map.clone();
        self.tasks.spawn(token.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(flap.down).await;
                map.send_modify(|map| map.set(nodes.as_ref(), Reach::Alive));
                tokio::time::sleep(flap.up).await;
                map.send_modify(|map| map.set(nodes.as_ref(), reach));
            }
        }));
    }

    fn end_flapping(&self) -> CancellationToken {
        let fresh = self.shutdown.child_token();
        // One assignment under the lock: whole even after a panic.
        let mut present = self.flapping.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *present, fresh.clone()).cancel();
        fresh
    }

    /// The machine of a node is gone, or back: the network's side of it.
    pub fn set_machine(&self, node: &str, there: bool) {
        self.map.send_modify(|map| {
            if there {
                map.gone.remove(node);
                map.lost.remove(node);
            } else {
                map.gone.insert(node.to_owned());
            }
        });
    }

    /// The cluster's control plane gives a node up, if its machine did not come back meanwhile. False when it did.
    pub fn give_up(&self, node: &str) -> bool {
        self.map.send_if_modified(|map| map.gone.contains(node) && map.lost.insert(node.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaches() -> Reaches {
        Reaches::new(TaskTracker::new(), CancellationToken::new())
    }

    fn nodes(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_worse_of_cluster_and_node_counts_and_alive_for_a_cluster_leaves_nothing_behind() {
        let reaches = reaches();
        reaches.set(nodes(&["n1"]), Reach::Dead, None);
        reaches.set(None, Reach::Silent, None);
        let map = reaches.now();
        assert_eq!((map.of("n1"), map.of("n2")), (Reach::Dead, Reach::Silent));
        reaches.set(None, Reach::Alive, None);
        assert_eq!(reaches.now(), ReachMap::default());
    }

    #[test]
    fn a_node_is_given_up_only_while_its_machine_is_away() {
        let reaches = reaches();
        assert!(!reaches.give_up("n1"), "it is there");
        reaches.set_machine("n1", false);
        assert_eq!(reaches.now().of("n1"), Reach::Silent);
        reaches.set(None, Reach::Alive, None);
        assert_eq!(reaches.now().of("n1"), Reach::Silent, "the network does not bring a machine back");
        assert!(reaches.give_up("n1"));
        reaches.set_machine("n1", true);
        assert_eq!(reaches.now(), ReachMap::default());
    }

    #[tokio::test]
    async fn a_flap_goes_on_by_the_clock_until_the_next_call() {
        let reaches = reaches();
        let flap = Flap { down: Duration::from_millis(20), up: Duration::from_millis(40) };
        let mut seen = reaches.subscribe();
        let begun = std::time::Instant::now();
        reaches.set(None, Reach::Dead, Some(flap));
        for (reach, at_least) in [(Reach::Dead, 0), (Reach::Alive, 20), (Reach::Dead, 60), (Reach::Alive, 80)] {
            seen.changed().await.unwrap();
            assert_eq!(seen.borrow_and_update().cluster, reach);
            assert!(begun.elapsed() >= Duration::from_millis(at_least));
        }
        reaches.set(None, Reach::Alive, None);
        reaches.tasks.close();
        reaches.tasks.wait().await;
        assert_eq!(reaches.now(), ReachMap::default(), "nobody is left who would change it");
    }
}
