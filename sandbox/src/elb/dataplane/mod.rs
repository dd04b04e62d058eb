//! The data plane: one real HTTP/1.1 reverse proxy per listener. This file keeps what each node of a load balancer
//! believes (rules reach nodes late and at different times), opens and closes sockets, and runs the tasks.
//! Which group and target a request goes to is decided in `select`; forwarding is `proxy`.

mod answers;
mod body;
mod pick;
mod pool;
mod proxy;
mod select;
mod sticky;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{pool::Pool, proxy::Client};
use super::{
    Inner,
    actions::Action,
    api::Effects,
    conditions::Condition,
    config::ElbConfig,
    counters::Counters,
    lock,
    model::{Arn, World},
    series::{Series, Served},
};

/// A load balancer has a node in each of two zones, and nodes learn of changes at different times.
const NODES: usize = 2;
/// Connections served together on one listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// What requests in flight get at the shutdown or when their listener is gone.
const GRACE: Duration = Duration::from_secs(5);
/// Largest request head, as ALB documents it for all headers together.
const MAX_HEAD: usize = 64 << 10;

/// What one node knows of one listener.
#[derive(Debug)]
pub struct Routing {
    pub load_balancer: Arn,
    pub port: u16,
    pub https: bool,
    pub idle_timeout: Duration,
    /// `append`, `preserve` or `remove`.
    pub forwarded_for: String,
    /// In the order of evaluation.
    pub rules: Vec<(Vec<Condition>, Action)>,
}

/// The present belief of one node and what it will learn. None stands for "no such listener".
#[derive(Debug, Default)]
struct NodeTable {
    current: Option<Arc<Routing>>,
    pending: VecDeque<(Instant, Option<Arc<Routing>>)>,
}

impl NodeTable {
    fn at(&mut self, now: Instant) -> Option<Arc<Routing>> {
        while self.pending.front().is_some_and(|(due, _)| *due <= now) {
            self.current = self.pending.pop_front().and_then(|(_, routing)| routing);
        }
        self.current.clone()
    }

    /// Later news never overtakes earlier news.
    fn learn(&mut self, due: Instant, routing: Option<Arc<Routing>>) -> Instant {
        let due = self.pending.back().map_or(due, |(last, _)| due.max(*last));
        self.pending.push_back((due, routing));
        due
    }
}

/// What the supervisor is told. Sent under the lock of the state, so the order is that of the changes.
pub enum Command {
    Open {
        listener: Arn,
        socket: std::net::TcpListener,
    },
    /// Close the sockets of a listener but `keep`, at a time.
    Close {
        listener: Arn,
        keep: Option<SocketAddr>,
        at: Instant,
    },
}

/// The shared part of the data plane.
pub struct DataPlane {
    tables: Mutex<HashMap<Arn, [NodeTable; NODES]>>,
    commands: mpsc::UnboundedSender<Command>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
    rng: Mutex<StdRng>,
    turns: Mutex<HashMap<Arn, usize>>,
    counters: Mutex<Counters>,
    pub series: Mutex<Series>,
    pool: Pool,
    cookie_key: u64,
}

impl DataPlane {
    pub fn new(seed: u64, metrics_period: Duration) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        // A stream of its own, so that a request more or less never changes the ids of later resources.
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0064_6174_6170_6c61);
        Self {
            tables: Mutex::default(),
            commands,
            receiver: Mutex::new(Some(receiver)),
            cookie_key: rng.random(),
            rng: Mutex::new(rng),
            turns: Mutex::default(),
            counters: Mutex::default(),
            series: Mutex::new(Series::new(i64::try_from(metrics_period.as_millis()).unwrap_or(i64::MAX))),
            pool: Pool::new(),
        }
    }

    pub fn take_commands(&self) -> Option<mpsc::UnboundedReceiver<Command>> {
        lock(&self.receiver).take()
    }

    /// Counts a request that reached a group.
    fn served(&self, served: &Served<'_>) {
        lock(&self.counters).add(served.load_balancer, Some(served.group), served.target, served.ending);
        lock(&self.series).add(jiff::Timestamp::now().as_millisecond(), served);
    }

    pub fn counters(&self) -> Counters {
        lock(&self.counters).clone()
    }

    pub fn reset_counters(&self) {
        *lock(&self.counters) = Counters::default();
    }

    /// Tells the nodes what changed. A new listener works at once; everything else takes the propagation delay.
    pub fn publish(&self, world: &World, effects: Effects, now: Instant, config: &ElbConfig) {
        let mut tables = lock(&self.tables);
        let mut opened = HashMap::new();
        for (listener, socket) in effects.opened {
            opened.insert(listener.clone(), socket.local_addr().ok());
            // The receiver lives as long as the process serves; after the end nobody needs sockets.
            let _ = self.commands.send(Command::Open { listener, socket });
        }
        for arn in effects.changed {
            let routing = routing_of(world, &arn).map(Arc::new);
            let Some(nodes) = tables.get_mut(&arn) else {
                let fresh = || NodeTable { current: routing.clone(), pending: VecDeque::new() };
                tables.insert(arn, std::array::from_fn(|_| fresh()));
                continue;
            };
            let mut last = now;
            for node in nodes {
                let share = lock(&self.rng).random_range(0.5..=1.0);
                let due = now + config.scaled(config.propagation).mul_f64(share);
                last = last.max(node.learn(due, routing.clone()));
            }
            let keep = opened.get(&arn).copied().flatten();
            if keep.is_some() || routing.is_none() {
                let _ = self.commands.send(Command::Close { listener: arn, keep, at: last });
            }
        }
    }

    fn routing(&self, listener: &str, node: usize, now: Instant) -> Option<Arc<Routing>> {
        lock(&self.tables).get_mut(listener)?.get_mut(node)?.at(now)
    }

    fn forget(&self, listener: &str) {
        lock(&self.tables).remove(listener);
    }
}

fn routing_of(world: &World, listener: &str) -> Option<Routing> {
    let held = world.listeners.get(listener)?;
    let lb = world.load_balancers.get(&held.load_balancer)?;
    let number = |key: &str| lb.attributes.get(key).and_then(|v| v.parse().ok());
    let rules = world.rules_of(listener).into_iter();
    Some(Routing {
        load_balancer: lb.arn.clone(),
        port: held.port,
        https: held.protocol == "HTTPS",
        idle_timeout: Duration::from_secs(number("idle_timeout.timeout_seconds").unwrap_or(60)),
        forwarded_for: lb.attributes.get("routing.http.xff_header_processing.mode").cloned().unwrap_or_default(),
        rules: rules.filter_map(|r| Some((r.conditions.clone(), r.actions.last()?.clone()))).collect(),
    })
}

/// Sockets that are open, by listener.
type Open = HashMap<Arn, Vec<(SocketAddr, CancellationToken)>>;

/// Opens and closes sockets as told, until the shutdown; returns when every connection has ended.
pub async fn run(inner: Arc<Inner>, mut commands: mpsc::UnboundedReceiver<Command>, shutdown: CancellationToken) {
    let tracker = TaskTracker::new();
    let mut open = Open::new();
    loop {
        let command = tokio::select! {
            () = shutdown.cancelled() => break,
            command = commands.recv() => match command { Some(command) => command, None => break },
        };
        match command {
            Command::Open { listener, socket } => {
                let token = shutdown.child_token();
                let opened = TcpListener::from_std(socket).and_then(|s| s.local_addr().map(|address| (address, s)));
                let Ok((address, socket)) = opened else {
                    tracing::error!(%listener, "the data plane could not take over a socket; the listener serves nothing");
                    continue;
                };
                open.entry(listener.clone()).or_default().push((address, token.clone()));
                tracker.spawn(accept(Arc::clone(&inner), listener, socket, token, tracker.clone()));
            }
            Command::Close { listener, keep, at } => {
                let sockets = open.remove(&listener).unwrap_or_default();
                let (kept, closing): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|(a, _)| Some(*a) == keep);
                let gone = kept.is_empty();
                if !gone {
                    open.insert(listener.clone(), kept);
                }
                let (inner, shutdown) = (Arc::clone(&inner), shutdown.clone());
                tracker.spawn(async move {
                    tokio::select! { () = tokio::time::sleep_until(at.into()) => {}, () = shutdown.cancelled() => {} }
                    closing.iter().for_each(|(_, token)| token.cancel());
                    if gone {
                        inner.plane.forget(&listener);
                    }
                });
            }
        }
    }
    tracker.close();
    tracker.wait().await;
    inner.plane.pool.close().await;
}

async fn accept(
    inner: Arc<Inner>,
    listener: Arn,
    socket: TcpListener,
    closed: CancellationToken,
    tracker: TaskTracker,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut accepted_so_far = 0_usize;
    loop {
        let accepted = tokio::select! {
            () = closed.cancelled() => break,
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await.map_err(std::io::Error::other)?;
                socket.accept().await.map(|(stream, peer)| (stream, peer, permit))
            } => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => {
                // DNS spreads clients over the nodes; taking turns is the even form of it.
                let node = accepted_so_far % NODES;
                accepted_so_far += 1;
                let client = Client { listener: listener.clone(), node, address: peer };
                let (inner, closed) = (Arc::clone(&inner), closed.clone());
                tracker.spawn(async move {
                    serve_connection(inner, stream, client, closed).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%listener, %error, "a listener could not accept a connection and tries again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(inner: Arc<Inner>, stream: TcpStream, client: Client, closed: CancellationToken) {
    // Small answers must not wait for Nagle's algorithm; without the option they are only slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (inner, client) = (Arc::clone(&inner), client.clone());
        async move { Ok::<_, std::convert::Infallible>(proxy::handle(&inner, &client, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // ALB closes idle client connections after its idle timeout, 60 seconds unless set otherwise.
        .header_read_timeout(Duration::from_secs(60))
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // An error here is a client that went away, or an answer that was cut; both are counted elsewhere.
        _ = connection.as_mut() => {}
        () = closed.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GRACE, connection).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(port: u16) -> Option<Arc<Routing>> {
        Some(Arc::new(Routing {
            load_balancer: String::new(),
            port,
            https: false,
            idle_timeout: Duration::from_secs(1),
            forwarded_for: String::new(),
            rules: Vec::new(),
        }))
    }

    #[test]
    fn a_node_uses_the_old_rules_until_the_new_ones_are_due_and_never_goes_back() {
        let now = Instant::now();
        let mut node = NodeTable { current: routing(1), pending: VecDeque::new() };
        node.learn(now + Duration::from_secs(5), routing(2));
        // Learned later but with less delay: must not overtake.
        node.learn(now + Duration::from_secs(3), routing(3));
        let port = |node: &mut NodeTable, s| node.at(now + Duration::from_secs(s)).map(|r| r.port);
        assert_eq!(port(&mut node, 4), Some(1));
        assert_eq!(port(&mut node, 5), Some(3));
        node.learn(now + Duration::from_secs(6), None);
        assert_eq!(port(&mut node, 6), None);
    }
}
