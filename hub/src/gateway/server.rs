//! The socket of the gateway: accepts, shakes hands, reads heads within their bounds. Knows nothing of calls.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::{Gateway, call::Peer};

/// Bytes of a request's head: 8 KiB of path, and headers that proxies add. Above it the answer is 431.
const MOST_HEAD: usize = 32 * 1024;
/// Headers of a request; above it the answer is 431, too.
const MOST_HEADERS: usize = 64;
/// After an error of accept, such as no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For what is under way when the hub stops; less than the hub's own patience with its tasks.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves until the token, and then until what is under way has ended.
pub(super) async fn run(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    gateway: Arc<Gateway>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(gateway.limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the gateway could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One too many is closed at once: nothing can be said to it before a handshake.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(connections = gateway.limits.connections, "the gateway has no room for another connection");
            continue;
        };
        let (acceptor, gateway, shutdown) = (acceptor.clone(), Arc::clone(&gateway), shutdown.clone());
        connections.spawn(async move {
            accept(stream, acceptor, gateway, shutdown).await;
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(FAREWELL, ended).await.is_err() {
        tracing::warn!("connections to the gateway did not end in time and are cut off");
        connections.shutdown().await;
    }
}

async fn accept(stream: TcpStream, acceptor: Option<TlsAcceptor>, gateway: Arc<Gateway>, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection to the gateway ended before it began");
        return;
    }
    let Some(acceptor) = acceptor else {
        let peer = Peer::Tcp(stream.connect_info());
        return serve(stream, peer, gateway, shutdown).await;
    };
    let accepted = tokio::select! {
        () = shutdown.cancelled() => return,
        accepted = timeout(gateway.limits.head, acceptor.accept(stream)) => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => {
            let peer = Peer::Tls(stream.connect_info());
            serve(stream, peer, gateway, shutdown).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a handshake with the gateway failed"),
        Err(_) => tracing::debug!("a handshake with the gateway took too long"),
    }
}

async fn serve<S>(stream: S, peer: Peer, gateway: Arc<Gateway>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(gateway.limits.head);
    builder.max_buf_size(MOST_HEAD).max_header_size(MOST_HEAD).max_headers(MOST_HEADERS);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (gateway, peer) = (Arc::clone(&gateway), peer.clone());
        async move { Ok::<_, Infallible>(gateway.answer(peer, request.map(Body::new)).await) }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        let error: &dyn std::error::Error = &error;
        tracing::debug!(error, "a connection to the gateway broke off");
    }
}
