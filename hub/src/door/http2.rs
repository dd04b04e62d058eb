//! gRPC over HTTP/2, with every bound of the protocol set here and not left to a library's default: streams, headers, resets, pings,
//! buffers, idleness. The identity of the connection goes into the extensions of every request.

use std::{convert::Infallible, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes};
use tower::Service;

use super::{
    Guard, Keep,
    accept::{Guest, LEAVE, Speech, run},
    idle::{Activity, Prompt},
    kept::{Held, Untaken},
    metrics::Port,
};

/// Between two pings on a connection, and until one without answer ends it: a peer that vanished is noticed within 20 s even
/// when it has no session.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Streams on one connection: an agent has four, a CD system some watches.
const MOST_STREAMS: u32 = 256;
/// Bytes of the headers of one request, as HTTP/2 counts them: a token of 8 KiB and some metadata. It bounds CONTINUATION frames, too.
const MOST_HEADERS: u32 = 24 * 1024;
/// Streams that a client has reset before they were looked at. More of them is no client but an attack (CVE-2023-44487), and ends the
/// connection.
const MOST_PENDING_RESETS: usize = 20;
/// Streams that were reset by this side for errors of the client; the connection ends above it.
const MOST_ERROR_RESETS: usize = 256;
/// Bytes that wait for a peer that reads slowly, of one stream. What is more waits in the stream's own bounded queue.
const SEND_BUFFER: usize = 256 * 1024;
/// Bytes that a peer may send ahead before anybody reads them, on a stream and on a connection. An agent that is 50 ms away sends 5 MB a
/// second with it.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// For the last words on a connection that is closed for idleness.
const GOODBYE: Duration = Duration::from_secs(10);

const SPEECH: Speech = Speech { port: "grpc", protocol: b"h2" };

/// Serves these services until the token, and then until the streams under way have ended, or five seconds.
pub async fn serve(listener: TcpListener, guard: Guard, routes: Routes, shutdown: CancellationToken) {
    let routes = routes.prepare();
    let inside = guard.clone();
    run(listener, guard, SPEECH, shutdown, move |guest| connection(guest, inside.clone(), routes.clone())).await;
}

/// Why a connection is ended from here.
enum End {
    /// The hub stops, or nothing happens here: streams that were opened at the last moment are carried to their end.
    Polite,
    /// What its certificate came from is not trusted any more.
    Left,
    /// Nobody takes the answers.
    Unread,
}

async fn connection(guest: Guest, guard: Guard, routes: Routes) {
    // HTTP/2 has its own bound on silence, so that the seat is kept by nothing but the connection.
    let Guest { stream, peer, trusted, place, seat: _seat, shutdown } = guest;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    builder.max_concurrent_streams(MOST_STREAMS).max_header_list_size(MOST_HEADERS).max_send_buf_size(SEND_BUFFER);
    builder.max_pending_accept_reset_streams(MOST_PENDING_RESETS).max_local_error_reset_streams(MOST_ERROR_RESETS);
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    let (activity, untaken, address) = (Activity::new(), Untaken::default(), peer.address);
    let (answers, streams, metrics, first_message) =
        (untaken.clone(), activity.clone(), guard.metrics.clone(), guard.bounds.first_message);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let open = streams.open();
        let place = place.stream().ok_or_else(|| {
            metrics.refuse(SPEECH.port, "streams");
            no_room(place.most_streams())
        });
        request.extensions_mut().insert(peer.clone());
        let (mut routes, answers) = (routes.clone(), answers.clone());
        async move {
            let mut answer = match &place {
                Ok(_) => routes.call(request.map(|body| Prompt::new(body, first_message))).await?,
                Err(refusal) => refusal.clone().into_http(),
            };
            let keep = answer.extensions_mut().remove::<Keep>();
            keep.iter().for_each(|keep| answers.answered(keep));
            // Until the last byte was taken: an answer that waits for its reader is a stream that is open.
            Ok::<_, Infallible>(answer.map(|body| Held::new(body, (open, place.ok(), keep))))
        }
    });
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => Ok(ended),
        () = shutdown.cancelled() => Err(End::Polite),
        () = activity.idle(guard.bounds.first_stream, guard.bounds.idle) => {
            guard.metrics.idle.get_or_create(&Port { port: SPEECH.port }).inc();
            tracing::debug!(%address, "a connection without streams is closed");
            Err(End::Polite)
        }
        () = trusted.left() => Err(End::Left),
        () = untaken.late(guard.bounds.taken) => Err(End::Unread),
    };
    let ended = match ended {
        Ok(ended) => ended,
        Err(End::Unread) => {
            guard.metrics.refuse(SPEECH.port, "unread");
            tracing::debug!(%address, "a connection on which nobody takes the answers is closed");
            Ok(())
        }
        Err(End::Left) => {
            guard.metrics.refuse(SPEECH.port, "authority");
            tracing::debug!(%address, "a connection is closed whose certificate came from an authority that is not trusted any more");
            served.as_mut().graceful_shutdown();
            timeout(LEAVE, served.as_mut()).await.unwrap_or(Ok(()))
        }
        Err(End::Polite) => {
            served.as_mut().graceful_shutdown();
            loop {
                tokio::select! {
                    ended = served.as_mut() => break ended,
                    // It may lose its right to be here while it is on its way out.
                    () = trusted.left() => break Ok(()),
                    // A stream that was opened at the last moment is carried to its end.
                    () = sleep(GOODBYE), if !shutdown.is_cancelled() => if activity.streams() == 0 { break Ok(()) },
                }
            }
        }
    };
    if let Err(error) = ended {
        let error: &dyn std::error::Error = &error;
        tracing::debug!(%address, error, "a gRPC connection broke off");
    }
}

fn no_room(most: usize) -> Status {
    Status::resource_exhausted(format!(
        "this address has {most} streams open at this replica already; close some, or raise --connections-per-address"
    ))
}
