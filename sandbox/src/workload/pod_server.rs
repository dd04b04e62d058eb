//! The HTTP server inside a pod: answers on every container port, in whatever mode the pod is in.
//! Touches sockets only; what the pod's object says is `kubelet`'s business.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behaviour::{Mode, ModeRequest};
use super::reach::{Reach, ReachMap};
use crate::addresses::served_at;
use crate::serve::{Connections, listen};

/// Who answers.
#[derive(Debug, Clone)]
pub struct Identity {
    pub cluster: String,
    pub namespace: String,
    pub workload: String,
    pub pod: String,
    pub version: String,
    pub latency: Duration,
}

/// What the server looks at on each request.
#[derive(Debug)]
pub struct Face {
    pub identity: Identity,
    pub mode: watch::Receiver<ModeRequest>,
    pub reach: watch::Receiver<ReachMap>,
    /// Where the pod runs.
    pub node: String,
    /// Whether the start-up delay is over.
    pub started: watch::Receiver<bool>,
}

/// A running server.
#[derive(Debug)]
pub struct PodServer {
    stop: CancellationToken,
    acceptors: TaskTracker,
    connections: Connections,
}

impl PodServer {
    /// Listens on all ports of the pod, or on none.
    pub fn start(ip: Ipv4Addr, ports: &[u16], face: &Arc<Face>) -> io::Result<Self> {
        let ip = served_at(ip);
        let listeners: Vec<TcpListener> =
            ports.iter().map(|port| listen(SocketAddr::from((ip, *port)))).collect::<io::Result<_>>()?;
        let server =
            Self { stop: CancellationToken::new(), acceptors: TaskTracker::new(), connections: Connections::default() };
        for listener in listeners {
            let (stop, connections, face) = (server.stop.clone(), server.connections.clone(), face.clone());
            server.acceptors.spawn(accept(listener, stop, connections, face));
        }
        Ok(server)
    }

    /// Takes no new connection, finishes what is in flight, then closes; cut after `within`.
    pub async fn drain(self, within: Duration) {
        self.close().await;
        self.connections.drain(within).await;
    }

    /// Drops everything at once.
    pub async fn kill(self) {
        self.close().await;
        self.connections.cut().await;
    }

    async fn close(&self) {
        self.stop.cancel();
        self.acceptors.close();
        self.acceptors.wait().await;
    }
}

async fn accept(listener: TcpListener, stop: CancellationToken, connections: Connections, face: Arc<Face>) {
    let serve = |stream| {
        let face = face.clone();
        connections.spawn(stream, service_fn(move |request| answer(face.clone(), request)));
    };
    loop {
        tokio::select! {
            // Accept first: connections the kernel has completed are served, closing the listener would reset them.
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => serve(stream),
                Err(error) => tracing::warn!(%error, pod = %face.identity.pod, "a pod could not accept a connection"),
            },
            () = stop.cancelled() => return,
        }
    }
}

fn respond(face: &Face, status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let named = [
        ("x-sandbox-cluster", &face.identity.cluster),
        ("x-sandbox-pod", &face.identity.pod),
        ("x-sandbox-version", &face.identity.version),
    ];
    for (name, text) in named {
        // A version that is no header value is left out; the body still has it.
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    response
}

/// Waits while nothing gets through, in either direction; gives the mode in which the pod answers.
async fn passable(face: &Face) -> ModeRequest {
    let (mut modes, mut reach) = (face.mode.clone(), face.reach.clone());
    // Senders go with the pod or the sandbox, and the connection with them.
    let never = std::future::pending::<ModeRequest>;
    if reach.wait_for(|map| map.of(&face.node) != Reach::Silent).await.is_err() {
        return never().await;
    }
    let answering = modes.wait_for(|request| request.mode != Mode::Hung).await.map(|request| *request);
    match answering {
        Ok(request) => request,
        Err(_) => never().await,
    }
}

async fn answer(face: Arc<Face>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let now = passable(&face).await;
    if request.uri().path() == "/healthz" {
        let healthy = *face.started.borrow() && now.mode.ready();
        let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let text = if healthy { "{\"status\":\"ok\"}" } else { "{\"status\":\"unhealthy\"}" };
        return Ok(respond(&face, status, Body::from(text)));
    }
    tokio::time::sleep(face.identity.latency + now.extra_latency()).await;
    let now = passable(&face).await;
    let failing = matches!(now.mode, Mode::Failing | Mode::Erroring);
    let status = if failing { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let Identity { cluster, namespace, workload, pod, version, .. } = &face.identity;
    let body =
        json!({"cluster": cluster, "namespace": namespace, "workload": workload, "pod": pod, "version": version});
    Ok(respond(&face, status, Body::from(body.to_string())))
}
