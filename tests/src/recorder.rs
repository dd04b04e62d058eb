//! A hub that only listens: it speaks the protocol of agents, keeps what an agent says, and remembers everything that was taken
//! back. For tests of what an agent tells, which a real hub, holding removals and judging evidence, would hide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use switchyard_proto::agent::v1::{
    self as proto, AgentMessage, HubMessage,
    agent_message::Message as Said,
    agent_service_server::{AgentService, AgentServiceServer},
    hub_message::Message as Answer,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// The agent counts a stream as dead after three of these, whatever else happens in a test.
const HEARTBEAT_MS: u32 = 2_000;
/// Answers that wait for a slow agent.
const ANSWERS: usize = 64;

/// One address of a Service, as far as traffic depends on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The Service.
    pub service: String,
    /// Where.
    pub address: String,
    /// Where.
    pub port: u32,
    /// Whose.
    pub pod_uid: String,
    /// Whether requests may be sent there.
    pub ready: bool,
}

/// What names a target: everything but whether it is ready.
type Key = (String, String, u32, String);

fn key(target: &Target) -> Key {
    (target.service.clone(), target.address.clone(), target.port, target.pod_uid.clone())
}

/// What was heard.
#[derive(Debug, Default)]
pub struct Record {
    /// As of now, whole once `live`.
    view: BTreeMap<Key, Target>,
    /// What a snapshot under way has told.
    snapshot: Option<BTreeMap<Key, Target>>,
    removed: Vec<Key>,
    returned: Vec<Key>,
    turned_unready: Vec<Key>,
    /// The agent said that what it told is complete.
    pub live: bool,
    /// Streams that were begun.
    pub sessions: u64,
    /// Snapshots that were told.
    pub snapshots: u64,
    /// Messages with changes outside snapshots.
    pub deltas: u64,
}

impl Record {
    /// What the agent shows.
    pub fn targets(&self) -> BTreeSet<Target> {
        self.view.values().cloned().collect()
    }

    /// The pods, by uid, of all that was taken back since the last [`Record::forget`]: by a tombstone, or by a snapshot without it.
    pub fn removed(&self) -> BTreeSet<&str> {
        self.removed.iter().map(|(_, _, _, uid)| uid.as_str()).collect()
    }

    /// Everything that a load balancer would have suffered from although nothing called for it: removed and told again, or not ready
    /// for a while. What stops being ready and is then gone has ended.
    pub fn flaps(&self) -> Vec<String> {
        let returned = self.returned.iter().map(|key| format!("removed and back: {key:?}"));
        let alive = self.turned_unready.iter().filter(|key| !self.removed.contains(key));
        returned.chain(alive.map(|key| format!("turned unready: {key:?}"))).collect()
    }

    /// From here on removals and flaps are counted anew.
    pub fn forget(&mut self) {
        self.removed.clear();
        self.returned.clear();
        self.turned_unready.clear();
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::SnapshotBegin(_) => self.snapshot = Some(BTreeMap::new()),
            Said::SnapshotEnd(_) => {
                self.snapshots += 1;
                let told = self.snapshot.take().unwrap_or_default();
                let missing: Vec<Key> = self.view.keys().filter(|key| !told.contains_key(*key)).cloned().collect();
                missing.into_iter().for_each(|key| self.remove(key));
                told.into_values().for_each(|target| self.put(target));
            }
            Said::Changes(changes) => {
                let targets: Vec<Target> = changes.upserts.into_iter().map(target).collect();
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.extend(targets.into_iter().map(|target| (key(&target), target)));
                    return;
                }
                self.deltas += 1;
                for gone in changes.tombstones {
                    let service = gone.service.unwrap_or_default().name;
                    self.remove((service, gone.address, gone.port, gone.pod_uid));
                }
                targets.into_iter().for_each(|target| self.put(target));
            }
            Said::Live(_) => self.live = true,
            Said::Hello(_) | Said::Heartbeat(_) | Said::SourceStates(_) => {}
        }
    }

    fn put(&mut self, target: Target) {
        let key = key(&target);
        if self.removed.contains(&key) {
            self.returned.push(key.clone());
        }
        if let Some(before) = self.view.insert(key.clone(), target)
            && before.ready
            && !self.view[&key].ready
        {
            self.turned_unready.push(key);
        }
    }

    fn remove(&mut self, key: Key) {
        // A tombstone for what was never told takes nothing back.
        if self.view.remove(&key).is_some() {
            self.removed.push(key);
        }
    }
}

fn target(endpoint: proto::Endpoint) -> Target {
    Target {
        service: endpoint.service.unwrap_or_default().name,
        address: endpoint.address,
        port: endpoint.port,
        pod_uid: endpoint.pod.unwrap_or_default().uid,
        ready: endpoint.ready,
    }
}

/// A running one.
#[derive(Debug)]
pub struct Recorder {
    url: String,
    record: Arc<Mutex<Record>>,
    stop: CancellationToken,
}

impl Recorder {
    /// Starts one that asks every agent for these Services of a namespace, by their port `http`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(namespace: &str, services: &[String]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let reference = |name: &String| proto::ServiceRef {
            namespace: namespace.to_owned(),
            name: name.clone(),
            port: "http".to_owned(),
            ..proto::ServiceRef::default()
        };
        let watch_set = proto::WatchSet { version: 1, services: services.iter().map(reference).collect() };
        let (record, stop) = (Arc::new(Mutex::new(Record::default())), CancellationToken::new());
        let desk = Desk { record: record.clone(), watch_set, stop: stop.clone(), tasks: TaskTracker::new() };
        let serving = Server::builder()
            .add_service(AgentServiceServer::new(desk))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
        tokio::spawn(serving);
        Ok(Self { url, record, stop })
    }

    /// Where agents reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was heard until now.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        // A panic in a test that looked leaves it whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Desk {
    record: Arc<Mutex<Record>>,
    watch_set: proto::WatchSet,
    stop: CancellationToken,
    tasks: TaskTracker,
}

type Answers = mpsc::Sender<Result<HubMessage, Status>>;

#[tonic::async_trait]
impl AgentService for Desk {
    type SessionStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (answers, stream) = mpsc::channel(ANSWERS);
        let (record, watch_set, stop) = (self.record.clone(), self.watch_set.clone(), self.stop.clone());
        let listening = listen(request.into_inner(), answers, record, watch_set);
        self.tasks.spawn(async move { stop.run_until_cancelled(listening).await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One stream, until either side ends it.
async fn listen(
    mut heard: Streaming<AgentMessage>,
    answers: Answers,
    record: Arc<Mutex<Record>>,
    watch_set: proto::WatchSet,
) {
    let say = async |answer: Answer| answers.send(Ok(HubMessage { message: Some(answer) })).await.is_ok();
    while let Ok(Some(message)) = heard.message().await {
        let Some(said) = message.message else { continue };
        let mut goes_on = true;
        match &said {
            Said::Hello(_) => {
                record.lock().unwrap_or_else(PoisonError::into_inner).sessions += 1;
                let welcome = proto::Welcome {
                    epoch: 1,
                    session_id: "recorded".to_owned(),
                    heartbeat_interval_ms: HEARTBEAT_MS,
                    ..proto::Welcome::default()
                };
                goes_on &= say(Answer::Welcome(welcome)).await;
                goes_on &= say(Answer::WatchSet(watch_set.clone())).await;
            }
            Said::Heartbeat(_) => goes_on &= say(Answer::Heartbeat(proto::Heartbeat::default())).await,
            _ => {}
        }
        record.lock().unwrap_or_else(PoisonError::into_inner).take(said);
        if message.seq > 0 {
            goes_on &= say(Answer::Ack(proto::Ack { seq: message.seq })).await;
        }
        if !goes_on {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsert(uid: &str, ready: bool) -> proto::Endpoint {
        proto::Endpoint {
            address: "10.0.0.1".to_owned(),
            port: 80,
            ready,
            pod: Some(proto::PodInfo { uid: uid.to_owned(), ..proto::PodInfo::default() }),
            ..proto::Endpoint::default()
        }
    }

    fn changes(upserts: Vec<proto::Endpoint>) -> Said {
        Said::Changes(proto::Changes { upserts, ..proto::Changes::default() })
    }

    #[test]
    fn what_a_snapshot_leaves_out_is_removed_and_what_comes_back_is_a_flap() {
        let mut record = Record::default();
        record.take(changes(vec![upsert("a", true)]));
        record.take(Said::SnapshotBegin(proto::SnapshotBegin::default()));
        record.take(changes(vec![upsert("b", true)]));
        assert!(record.removed().is_empty(), "not before its end");
        record.take(Said::SnapshotEnd(proto::SnapshotEnd::default()));
        assert_eq!(record.removed(), BTreeSet::from(["a"]));
        assert!(record.flaps().is_empty());
        record.take(changes(vec![upsert("a", true)]));
        assert_eq!(record.flaps().len(), 1);
    }

    #[test]
    fn a_target_that_stops_being_ready_is_counted() {
        let mut record = Record::default();
        record.take(changes(vec![upsert("a", true)]));
        record.take(changes(vec![upsert("a", true)]));
        assert!(record.flaps().is_empty());
        record.take(changes(vec![upsert("a", false)]));
        assert_eq!(record.flaps().len(), 1);
        let gone = proto::Tombstone {
            address: "10.0.0.1".to_owned(),
            port: 80,
            pod_uid: "a".to_owned(),
            ..Default::default()
        };
        record.take(Said::Changes(proto::Changes { tombstones: vec![gone], ..Default::default() }));
        assert!(record.flaps().is_empty(), "it has ended");
    }
}
