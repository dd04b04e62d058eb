//! Keep-alive connections from the load balancer to targets.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::body::Body;
use crate::{addresses::socket_at, elb::lock};

/// An idle connection is not used again after this; ALB's idle timeout is 60 seconds too.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Idle connections kept per target.
const MAX_PER_TARGET: usize = 128;
/// How long a target may take to accept a connection. ALB documents 10 seconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

type Idle = Arc<Mutex<HashMap<SocketAddr, Vec<(SendRequest<Body>, Instant)>>>>;

/// The idle connections, and the tasks that drive all of them.
pub struct Pool {
    idle: Idle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Pool {
    pub fn new() -> Self {
        Self { idle: Idle::default(), tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// A connection that was used before and still looks open.
    pub fn take(&self, address: SocketAddr) -> Option<SendRequest<Body>> {
        let mut idle = lock(&self.idle);
        let held = idle.get_mut(&address)?;
        while let Some((sender, since)) = held.pop() {
            if sender.is_ready() && since.elapsed() < MAX_IDLE {
                return Some(sender);
            }
        }
        idle.remove(&address);
        None
    }

    pub async fn connect(&self, address: SocketAddr) -> Result<SendRequest<Body>, ConnectError> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(socket_at(address)))
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(ConnectError::Refused)?;
        // Small requests must not wait for Nagle's algorithm; without the option they are only slower.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ConnectError::Handshake)?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            // How a connection ends shows at the request that used it.
            tokio::select! { _ = connection => {}, () = stop.cancelled() => {} }
        });
        Ok(sender)
    }

    /// Takes a connection back once its answer has been read to the end.
    pub fn give_back(&self, address: SocketAddr, mut sender: SendRequest<Body>) {
        let (idle, stop) = (Arc::clone(&self.idle), self.stop.clone());
        self.tasks.spawn(async move {
            let ready = tokio::select! { ready = sender.ready() => ready.is_ok(), () = stop.cancelled() => false };
            if !ready {
                return;
            }
            let mut idle = lock(&idle);
            let held = idle.entry(address).or_default();
            held.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < MAX_IDLE);
            if held.len() < MAX_PER_TARGET {
                held.push((sender, Instant::now()));
            }
        });
    }

    /// Closes everything; returns when every task has ended.
    pub async fn close(&self) {
        self.stop.cancel();
        lock(&self.idle).clear();
        self.tasks.close();
        self.tasks.wait().await;
        lock(&self.idle).clear();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the target did not accept the connection in time")]
    TimedOut,
    #[error("the target refused the connection")]
    Refused(#[source] std::io::Error),
    #[error("the connection to the target could not be set up")]
    Handshake(#[source] hyper::Error),
}
