//! The session of one agent as a machine without IO: messages and events in, effects out, state consumed. It decides the order
//! of a session, what makes a snapshot whole, which watch set an agent speaks of, and what may be forgotten.
//!
//! Two rules keep removals honest (I4). A snapshot counts only when it ends with the counts of what arrived. Rows of a Service
//! that left the watch set are swept by a fresh snapshot, and only after the agent confirmed a set without it (`Live`): were they
//! forgotten when the set is sent, an agent that skips from the set before to the one after would never send them again; were
//! they kept, they would be taken for living pods when the Service comes back.
//!
//! Must not import tonic, sqlx or tokio. Tests: `state_tests.rs`.

use std::{collections::BTreeMap, sync::Arc};

use switchyard_core::{
    ids::Epoch,
    inventory::{EndpointKey, ServiceKey, SourceProblem},
};

use super::watch_set::WatchSet;
use crate::store::{AgentHello, EndpointChange, NewEndpoint, NewServiceState};

/// Endpoints that one snapshot may hold: the size that the hub is built for.
pub const MOST_ENDPOINTS: usize = 100_000;
/// Service ports that one snapshot may hold, twice what a cluster of that size is expected to route.
pub const MOST_SERVICES: usize = 20_000;
/// Snapshots that were begun in a row and none of which was ended. An agent begins anew when its watch set changes within one.
const MOST_BEGUN: u32 = 100;
/// Watch sets that were sent and not confirmed. An agent this far behind gets a fresh start.
const MOST_SETS: usize = 64;

/// A message of the agent after Hello, with every field checked.
#[derive(Clone, Debug)]
pub enum Inbound {
    /// A snapshot begins.
    SnapshotBegin {
        /// Names it.
        id: String,
        /// The watch set that it was made from.
        version: u64,
    },
    /// Part of a snapshot, or news.
    Changes(Vec<EndpointChange>),
    /// The snapshot is complete.
    SnapshotEnd {
        /// As in the begin.
        id: String,
        /// Service states sent.
        services: u32,
        /// Endpoints sent.
        endpoints: u32,
    },
    /// The agent has caught up with this watch set.
    Live {
        /// The set.
        version: u64,
    },
    /// Sources that fail now.
    Sources(Vec<SourceProblem>),
}

impl Inbound {
    /// Bytes that it takes in memory until it is stored, its allocations included.
    pub fn weight(&self) -> usize {
        /// Of an allocation, beside its bytes.
        const ALLOCATION: usize = 16;
        let texts = |texts: &[&str]| texts.iter().map(|text| text.len() + ALLOCATION).sum::<usize>();
        let service = |key: &ServiceKey| texts(&[key.namespace.as_str(), key.name.as_str(), key.port.as_str()]);
        let endpoint = |key: &EndpointKey| service(&key.service) + texts(&[key.cluster.as_str(), key.pod_uid.as_str()]);
        let new = |new: &NewEndpoint| {
            let lists = size_of::<String>() * (new.eni_ids.len() + new.gates.len());
            let enis: usize = new.eni_ids.iter().map(|id| texts(&[id])).sum();
            let gates: usize = new.gates.iter().map(|gate| texts(&[gate.as_str()])).sum();
            lists + enis + gates + texts(&[&new.pod_name, &new.node, &new.zone, &new.pod])
        };
        let problem =
            |one: &SourceProblem| size_of::<SourceProblem>() + texts(&[&one.namespace, &one.kind, &one.message]);
        let changes = match self {
            Inbound::Changes(changes) => changes,
            Inbound::Sources(problems) => return problems.iter().map(problem).sum(),
            Inbound::SnapshotBegin { .. } | Inbound::SnapshotEnd { .. } | Inbound::Live { .. } => {
                return size_of::<Self>();
            }
        };
        let change = |change: &EndpointChange| match change {
            EndpointChange::Service(key, new) => service(key) + texts(&[&new.state.message]),
            EndpointChange::Upsert(key, reported) => endpoint(key) + new(reported),
            EndpointChange::Gone(key, _) => endpoint(key),
        };
        changes.iter().map(|one| size_of::<EndpointChange>() + change(one)).sum()
    }

    /// A stable word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Inbound::SnapshotBegin { .. } => "snapshot_begin",
            Inbound::Changes(_) => "changes",
            Inbound::SnapshotEnd { .. } => "snapshot_end",
            Inbound::Live { .. } => "live",
            Inbound::Sources(_) => "source_states",
        }
    }
}

/// A checked Hello.
#[derive(Clone, Debug)]
pub struct Hello {
    /// For the store.
    pub agent: AgentHello,
    /// The highest epoch that the agent has seen.
    pub highest_epoch: Epoch,
}

/// What happens to a session.
#[derive(Clone, Debug)]
pub enum Input {
    /// The first message.
    Hello(Box<Hello>, Epoch),
    /// The store opened the session; the watch set is the present one.
    Opened {
        /// Deltas after this number suffice.
        resume_after: Option<u64>,
        /// The set to be watched.
        set: Arc<WatchSet>,
    },
    /// A later message.
    Message(u64, Inbound),
    /// The policies ask for another set.
    NewWatchSet(Arc<WatchSet>),
}

/// What is to be stored for one message, and acknowledged after that.
#[derive(Clone, Debug)]
pub struct Write {
    /// The message's number.
    pub seq: u64,
    /// The work.
    pub work: Work,
}

/// See `Write`.
#[derive(Clone, Debug)]
pub enum Work {
    /// Part of a snapshot. Nothing is stored before the snapshot is whole; a session that ends before that is never resumed,
    /// so the acknowledgement only opens the agent's window.
    Staged,
    /// News.
    Changes(Vec<EndpointChange>),
    /// A whole snapshot.
    Snapshot(Box<Snapshot>),
    /// The agent is live.
    Live,
    /// Sources that fail now; empty: none.
    Sources(Vec<SourceProblem>),
}

/// A whole snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What it covers.
    pub set: Arc<WatchSet>,
    /// States of Services.
    pub services: Vec<(ServiceKey, NewServiceState)>,
    /// Endpoints.
    pub endpoints: Vec<(EndpointKey, NewEndpoint)>,
}

/// What the shell must do, in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Open the session in the store, then say [`Input::Opened`].
    Open,
    /// Tell the agent whether it may go on after this number.
    Welcome {
        /// See proto Welcome.
        resume_after: Option<u64>,
    },
    /// Send the set.
    SendWatchSet(Arc<WatchSet>),
    /// Ask for a new snapshot.
    Resync(String),
    /// Store, then acknowledge.
    Store(Write),
    /// End the session.
    End(Refusal),
}

/// Why the hub ends a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A message that does not fit the place in the session.
    #[error("{what} is not allowed {place}; the order is Hello, then a snapshot or deltas, then Live")]
    OutOfOrder {
        /// The message.
        what: &'static str,
        /// Where the session stands.
        place: &'static str,
    },
    /// Numbers must grow.
    #[error("seq: {seq} does not follow {last}; every message after Hello but a heartbeat carries the next number")]
    Sequence {
        /// As given.
        seq: u64,
        /// The last one taken.
        last: u64,
    },
    /// The agent has seen a newer hub.
    #[error("this hub's epoch {ours} is older than epoch {seen} that the agent has seen; another hub took over")]
    OlderHub {
        /// Ours.
        ours: Epoch,
        /// The agent's.
        seen: Epoch,
    },
    /// Snapshots without an end.
    #[error("{begun} snapshots were begun and none was ended; end one, or report changes")]
    NoEnd {
        /// How many.
        begun: u32,
    },
    /// Too much in all snapshots that are under way.
    #[error(
        "the hub holds {most} bytes of reports that are not stored yet, and this cluster has more than its share of them; it is taken \
         when there is room"
    )]
    NoShare {
        /// The limit.
        most: usize,
    },
    /// Too much in one snapshot.
    #[error("the snapshot holds more than {most} {what}; route fewer Services of this cluster")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
}

/// Parts of a snapshot that have arrived.
#[derive(Clone, Debug)]
struct Staging {
    id: String,
    set: Arc<WatchSet>,
    services: BTreeMap<ServiceKey, NewServiceState>,
    endpoints: BTreeMap<EndpointKey, NewEndpoint>,
}

/// What both open states share.
#[derive(Clone, Debug)]
struct Open {
    last_seq: u64,
    /// Sets that the agent may speak of, oldest first; the first is the one it confirmed last, or the first sent.
    sets: Vec<Arc<WatchSet>>,
    staging: Option<Staging>,
    /// Snapshots that were begun since one was ended.
    begun: u32,
    /// True when the store holds all of the agent's view: a snapshot went in, or the session was resumed.
    whole: bool,
}

/// Where a session stands.
#[derive(Clone, Debug)]
pub enum State {
    /// Nothing heard yet.
    AwaitHello,
    /// The store is being asked.
    Opening,
    /// Open, not caught up yet.
    Syncing(Box<Syncing>),
    /// Caught up.
    Live(Box<Live>),
    /// Over.
    Ended,
}

/// See [`State::Syncing`].
#[derive(Clone, Debug)]
pub struct Syncing(Open);
/// See [`State::Live`].
#[derive(Clone, Debug)]
pub struct Live(Open);

type Stepped = (Vec<Effect>, State);

impl State {
    /// What the input leads to.
    pub fn step(self, input: Input) -> Stepped {
        match (self, input) {
            (State::AwaitHello, Input::Hello(hello, ours)) => {
                if hello.highest_epoch > ours {
                    let seen = hello.highest_epoch;
                    return end(Refusal::OlderHub { ours, seen });
                }
                (vec![Effect::Open], State::Opening)
            }
            (State::AwaitHello, Input::Message(_, message)) => out_of_order(message.kind(), "before Hello"),
            (State::Opening, Input::Opened { resume_after, set }) => {
                let open = Open {
                    last_seq: resume_after.unwrap_or(0),
                    sets: vec![Arc::clone(&set)],
                    staging: None,
                    begun: 0,
                    whole: resume_after.is_some(),
                };
                let effects = vec![Effect::Welcome { resume_after }, Effect::SendWatchSet(set)];
                (effects, State::Syncing(Box::new(Syncing(open))))
            }
            (State::Opening, Input::Message(_, message)) => out_of_order(message.kind(), "before Welcome"),
            (State::Syncing(state), input) => open_step(state.0, input, false),
            (State::Live(state), input) => open_step(state.0, input, true),
            (State::Ended, _) => (Vec::new(), State::Ended),
            (State::Opening, Input::Hello(..)) => out_of_order("hello", "twice"),
            // The shell hands these in only when open; a set that comes early is replaced by the one given with Opened.
            (state @ (State::AwaitHello | State::Opening), Input::NewWatchSet(_) | Input::Opened { .. }) => {
                (Vec::new(), state)
            }
        }
    }

    /// A stable word, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            State::AwaitHello => "await_hello",
            State::Opening => "opening",
            State::Syncing(_) => "syncing",
            State::Live(_) => "live",
            State::Ended => "ended",
        }
    }
}

fn end(refusal: Refusal) -> Stepped {
    (vec![Effect::End(refusal)], State::Ended)
}

fn out_of_order(what: &'static str, place: &'static str) -> Stepped {
    end(Refusal::OutOfOrder { what, place })
}

fn back(open: Open, live: bool, effects: Vec<Effect>) -> Stepped {
    let state = if live { State::Live(Box::new(Live(open))) } else { State::Syncing(Box::new(Syncing(open))) };
    (effects, state)
}

fn open_step(mut open: Open, input: Input, live: bool) -> Stepped {
    match input {
        Input::Hello(..) => out_of_order("hello", "twice"),
        Input::Opened { .. } => back(open, live, Vec::new()),
        Input::NewWatchSet(set) => new_set(open, live, set),
        Input::Message(seq, _) if seq <= open.last_seq => end(Refusal::Sequence { seq, last: open.last_seq }),
        Input::Message(seq, message) => {
            open.last_seq = seq;
            match message {
                Inbound::SnapshotBegin { id, version } => begin(open, live, seq, id, version),
                Inbound::Changes(changes) => changed(open, live, seq, changes),
                Inbound::SnapshotEnd { id, services, endpoints } => finish(open, live, seq, &id, (services, endpoints)),
                Inbound::Live { version } => went_live(open, live, seq, version),
                Inbound::Sources(problems) => back(open, live, vec![store(seq, Work::Sources(problems))]),
            }
        }
    }
}

fn store(seq: u64, work: Work) -> Effect {
    Effect::Store(Write { seq, work })
}

fn new_set(mut open: Open, live: bool, set: Arc<WatchSet>) -> Stepped {
    if open.sets.last().is_some_and(|last| last.version == set.version) {
        return back(open, live, Vec::new());
    }
    let mut effects = vec![Effect::SendWatchSet(Arc::clone(&set))];
    if open.sets.len() >= MOST_SETS {
        open.sets.clear();
        open.staging = None;
        open.whole = false;
        effects.push(Effect::Resync(format!("{MOST_SETS} watch sets were sent and none was confirmed")));
    }
    open.sets.push(set);
    back(open, live, effects)
}

/// The oldest set of this version: of two equal ones the older leaves more to be forgotten later, which is the safe side.
fn position(open: &Open, version: u64) -> Option<usize> {
    open.sets.iter().position(|set| set.version == version)
}

fn begin(mut open: Open, live: bool, seq: u64, id: String, version: u64) -> Stepped {
    open.begun += 1;
    if open.begun > MOST_BEGUN {
        return end(Refusal::NoEnd { begun: open.begun });
    }
    let Some(at) = position(&open, version) else {
        open.staging = None;
        let reason = format!("snapshot {id:?} was made from watch set {version}, which is not in force");
        return back(open, live, vec![store(seq, Work::Staged), Effect::Resync(reason)]);
    };
    open.staging =
        Some(Staging { id, set: Arc::clone(&open.sets[at]), services: BTreeMap::new(), endpoints: BTreeMap::new() });
    back(open, live, vec![store(seq, Work::Staged)])
}

fn changed(mut open: Open, live: bool, seq: u64, changes: Vec<EndpointChange>) -> Stepped {
    let Some(staging) = &mut open.staging else {
        let wanted = |key: &ServiceKey| open.sets.iter().any(|set| set.contains(key));
        let kept: Vec<_> = changes.into_iter().filter(|change| wanted(change_service(change))).collect();
        return back(open, live, vec![store(seq, Work::Changes(kept))]);
    };
    for change in changes {
        match change {
            EndpointChange::Service(key, state) => {
                staging.services.insert(key, state);
            }
            EndpointChange::Upsert(key, endpoint) => {
                staging.endpoints.insert(key, endpoint);
            }
            EndpointChange::Gone(..) => return out_of_order("a tombstone", "inside a snapshot"),
        }
    }
    for (what, count, most) in
        [("endpoints", staging.endpoints.len(), MOST_ENDPOINTS), ("Services", staging.services.len(), MOST_SERVICES)]
    {
        if count > most {
            return end(Refusal::TooLarge { what, most });
        }
    }
    back(open, live, vec![store(seq, Work::Staged)])
}

fn change_service(change: &EndpointChange) -> &ServiceKey {
    match change {
        EndpointChange::Service(key, _) => key,
        EndpointChange::Upsert(key, _) | EndpointChange::Gone(key, _) => &key.service,
    }
}

fn finish(mut open: Open, live: bool, seq: u64, id: &str, announced: (u32, u32)) -> Stepped {
    let Some(staging) = open.staging.take() else {
        // Its begin was answered with Resync already.
        return back(open, live, vec![store(seq, Work::Staged)]);
    };
    let arrived = (staging.services.len(), staging.endpoints.len());
    let equal = announced.0 as usize == arrived.0 && announced.1 as usize == arrived.1;
    if staging.id != id || !equal {
        let reason = format!(
            "snapshot {id:?} announced {} Services and {} endpoints, snapshot {:?} brought {} and {}",
            announced.0, announced.1, staging.id, arrived.0, arrived.1
        );
        return back(open, live, vec![store(seq, Work::Staged), Effect::Resync(reason)]);
    }
    if let Some(at) = position(&open, staging.set.version) {
        open.sets.drain(..at);
    }
    open.whole = true;
    open.begun = 0;
    let set = staging.set;
    let snapshot = Snapshot {
        services: staging.services.into_iter().filter(|(key, _)| set.contains(key)).collect(),
        endpoints: staging.endpoints.into_iter().filter(|(key, _)| set.contains(&key.service)).collect(),
        set,
    };
    back(open, live, vec![store(seq, Work::Snapshot(Box::new(snapshot)))])
}

fn went_live(mut open: Open, live: bool, seq: u64, version: u64) -> Stepped {
    if open.staging.is_some() {
        return out_of_order("live", "inside a snapshot");
    }
    let at = position(&open, version).filter(|_| open.whole);
    let Some(at) = at else {
        let reason = if open.whole {
            format!("live with watch set {version}, which is not in force")
        } else {
            "live without a snapshot".to_owned()
        };
        return back(open, live, vec![store(seq, Work::Staged), Effect::Resync(reason)]);
    };
    // A set may have come back before the one between was confirmed: then that one has left too, whichever of the two is meant.
    let at = open.sets.iter().rposition(|set| set.version == version).unwrap_or(at);
    let left: Vec<Arc<WatchSet>> = open.sets.drain(..at).collect();
    let confirmed = &open.sets[0];
    let mut effects = vec![store(seq, Work::Live)];
    if left.iter().flat_map(|set| &set.services).any(|key| !confirmed.contains(key)) {
        let reason = "Services left the watch set; a snapshot without them lets the hub forget them".to_owned();
        effects.push(Effect::Resync(reason));
    }
    back(open, true, effects)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
