//! HTTP connections that can be drained or cut: what a pod that terminates and an API server that dies have in common.
//! Owns the connection tasks of one server; knows nothing of what is served.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that opens a connection and sends no whole head within this time is cut off.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections the kernel queues before they are accepted.
const BACKLOG: u32 = 1_024;

/// Listens on exactly this address, also right after a former listener there was closed.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Old connections in TIME_WAIT must not keep a restarted server from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The open connections of one server.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    tasks: TaskTracker,
    finish: CancellationToken,
    cut: CancellationToken,
}

impl Connections {
    /// Serves one connection until it ends, is drained or cut.
    pub fn spawn<S>(&self, stream: TcpStream, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        // Small answers on keep-alive connections: without this each waits for the client's delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection could not be set to send at once");
        }
        let (finish, cut) = (self.finish.clone(), self.cut.clone());
        self.tasks.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let mut finishing = false;
            loop {
                tokio::select! {
                    // A client that goes away in the middle is no event for a sandbox.
                    _ = &mut connection => return,
                    () = cut.cancelled() => return,
                    () = finish.cancelled(), if !finishing => {
                        finishing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        });
    }

    /// Finishes the requests in flight and closes; what is still open after `within` is cut.
    pub async fn drain(&self, within: Duration) {
        self.finish.cancel();
        self.tasks.close();
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            self.cut().await;
        }
    }

    /// Drops every connection as a killed process would.
    pub async fn cut(&self) {
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
