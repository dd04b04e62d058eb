//! One Kubernetes API server: its listener, the ways it can fail, and the stores it shows. Requests go to `requests`.
//!
//! The store that controllers write to (`primary`) and the store that is shown can differ: after a wipe the server
//! answers from an empty one, as after a restore of etcd, while pods and controllers go on.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::rbac::{self, Attributes, Deny};
use super::requests;
use super::store::Store;
use crate::serve::{Connections, listen};

/// A listener, or what keeps it from listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Running,
    /// Connections are refused.
    Stopped,
    /// Connections are accepted and nothing is ever answered.
    Hung,
}

struct State {
    mode: Mode,
    deny: Vec<Deny>,
    shown: Arc<Store>,
    /// Counts what ends every running watch.
    generation: u64,
}

type Command = (Mode, oneshot::Sender<io::Result<()>>);

struct Shared {
    address: SocketAddr,
    primary: Arc<Store>,
    state: Mutex<State>,
    /// Wakes watches and held requests to look at `state` again.
    turns: watch::Sender<u64>,
    commands: mpsc::Sender<Command>,
}

/// Handle on one API server; clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    shared: Arc<Shared>,
}

/// The part that runs.
pub struct Listening {
    server: ApiServer,
    listener: TcpListener,
    commands: mpsc::Receiver<Command>,
}

impl ApiServer {
    /// Binds the address; requests wait in the kernel until [`Listening::run`].
    pub fn bind(address: SocketAddr, store: Arc<Store>) -> io::Result<(Self, Listening)> {
        // Somebody who listens on this port on all addresses has this one too: then any other port will do. What counts is
        // that the port stays the same afterwards.
        let listener = listen(address).or_else(|_| listen(SocketAddr::new(address.ip(), 0)))?;
        // One command at a time: callers wait for it to have taken effect.
        let (commands, receiver) = mpsc::channel(1);
        let state = State { mode: Mode::Running, deny: Vec::new(), shown: store.clone(), generation: 0 };
        let shared = Shared {
            address: listener.local_addr()?,
            primary: store,
            state: Mutex::new(state),
            turns: watch::Sender::new(0),
            commands,
        };
        let server = Self { shared: Arc::new(shared) };
        Ok((server.clone(), Listening { server, listener, commands: receiver }))
    }

    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // Plain assignments only: a poisoned lock holds whole values.
        let out = change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.turns.send_modify(|turn| *turn += 1);
        out
    }

    fn look<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `http://address:port`, the same through every restart.
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    pub fn mode(&self) -> Mode {
        self.look(|s| s.mode)
    }

    /// The store requests are answered from.
    pub fn shown(&self) -> Arc<Store> {
        self.look(|s| s.shown.clone())
    }

    /// Wakes on every change of mode, permissions or store.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.shared.turns.subscribe()
    }

    /// Number that changes when every running watch must end.
    pub fn generation(&self) -> u64 {
        self.look(|s| s.generation)
    }

    pub fn denied(&self, request: &Attributes) -> bool {
        self.look(|s| rbac::denied(&s.deny, request))
    }

    /// Replaces the deny list; running watches that it names end.
    pub fn set_deny(&self, deny: Vec<Deny>) {
        self.state(|s| s.deny = deny);
    }

    pub fn deny(&self) -> Vec<Deny> {
        self.look(|s| s.deny.clone())
    }

    /// Changes the mode and returns when it has taken effect.
    pub async fn set_mode(&self, mode: Mode) -> io::Result<()> {
        let (done, effect) = oneshot::channel();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the API server has shut down");
        self.shared.commands.send((mode, done)).await.map_err(|_| gone())?;
        effect.await.map_err(|_| gone())?
    }

    /// Stops and starts on the same port, cutting every connection.
    pub async fn restart(&self) -> io::Result<()> {
        self.set_mode(Mode::Stopped).await?;
        self.set_mode(Mode::Running).await
    }

    /// Forgets history: older resourceVersions answer 410, running watches that lag as well.
    pub fn compact(&self) {
        self.shown().compact();
        self.state(|_| ());
    }

    /// Answers empty lists from now on, as after a restore of etcd from an empty backup.
    pub fn wipe(&self) {
        self.state(|s| {
            // Versions only rise here. A real restore can also turn them back; clients then wait for them to pass.
            s.shown = Arc::new(Store::starting_at(s.shown.version() + 1));
            s.generation += 1;
        });
    }

    /// Shows the objects again that were there before the wipe, with all that controllers did since.
    pub fn restore(&self) {
        let primary = self.shared.primary.clone();
        self.state(|s| {
            if !Arc::ptr_eq(&s.shown, &primary) {
                primary.advance_to(s.shown.version() + 1);
                s.shown = primary;
                s.generation += 1;
            }
        });
    }
}

impl Listening {
    /// Serves until shutdown, through stops and starts.
    pub async fn run(self, shutdown: CancellationToken) {
        let Listening { server, listener, mut commands } = self;
        let mut listener = Some(listener);
        let mut connections = Connections::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some((mode, done)) = commands.recv() => {
                    let result = apply_mode(&server, mode, &mut listener, &mut connections).await;
                    // Whoever asked may have gone away; the mode holds all the same.
                    drop(done.send(result));
                }
                accepted = accept(listener.as_ref()) => match accepted {
                    Ok(stream) => {
                        let server = server.clone();
                        connections.spawn(stream, service_fn(move |request| requests::handle(server.clone(), request)));
                    }
                    Err(error) => tracing::warn!(%error, "the API server could not accept a connection"),
                },
            }
        }
        connections.cut().await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn apply_mode(
    server: &ApiServer,
    mode: Mode,
    listener: &mut Option<TcpListener>,
    connections: &mut Connections,
) -> io::Result<()> {
    if mode == Mode::Stopped {
        *listener = None;
        std::mem::take(connections).cut().await;
    } else if listener.is_none() {
        *listener = Some(listen(server.shared.address)?);
        // A server that starts has no history: its watch cache begins with what it lists.
        server.shown().compact();
    }
    server.state(|s| s.mode = mode);
    Ok(())
}
