//! HTTP/1.1 for the gateway and for the pages of health and metrics. Every byte of a head passes [`super::head`] first; what is refused
//! there is answered all the same, by the port that was asked, so that whoever sent it by mistake learns why.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, header::CONNECTION},
};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Guard, Keep, PeerInfo,
    accept::{Guest, LEAVE, Speech, Stream, run},
    head::{HeadFault, HeadGuard, MOST_HEAD, MOST_HEADERS, Step},
    headers::harden,
    kept::{Held, Untaken},
};

/// Bytes that are read at once.
const AT_ONCE: usize = 8 * 1024;
/// Stands for a request whose head was refused; nobody else's word: whoever sends it gets the same answer.
const REFUSED: &[u8] = b"REFUSED / HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n";

/// A request, or what was wrong with its head.
pub type Asked = Result<Request<Incoming>, HeadFault>;

/// Serves until the token, and then until what is under way has ended, or five seconds. `head` is the time for the head of a request; a
/// connection on which nothing is asked is closed after it, too.
pub async fn serve<F>(
    listener: TcpListener,
    guard: Guard,
    port: &'static str,
    head: Duration,
    shutdown: CancellationToken,
    answer: impl Fn(PeerInfo, Asked) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let speech = Speech { port, protocol: b"http/1.1" };
    let inside = guard.clone();
    let serve = move |guest| connection(guest, inside.clone(), speech.port, head, answer.clone());
    run(listener, guard, speech, shutdown, serve).await;
}

async fn connection<F>(
    guest: Guest,
    guard: Guard,
    port: &'static str,
    head: Duration,
    answer: impl Fn(PeerInfo, Asked) -> F,
) where
    F: Future<Output = Response<Body>>,
{
    // The place is kept to the end of the connection.
    let Guest { stream, peer, trusted, place: _place, seat, shutdown } = guest;
    let mut builder = http1::Builder::new();
    // Pieces are written as they are and not put together first, so that each is held until it was written.
    builder.writev(true);
    builder.timer(TokioTimer::new()).header_read_timeout(head);
    // The guard is stricter; these hold should it ever not be.
    builder.max_buf_size(2 * MOST_HEAD).max_header_size(2 * MOST_HEAD).max_headers(MOST_HEADERS);
    let fault = Arc::new(OnceLock::new());
    let (told, address) = (Arc::clone(&fault), peer.address);
    let untaken = Untaken::default();
    let (answers, asking) = (untaken.clone(), Arc::clone(&seat));
    let service = service_fn(move |request: Request<Incoming>| {
        let refused = request.method().as_str() == "REFUSED";
        let asked = if refused { Err(told.get().copied().unwrap_or(HeadFault::RequestLine)) } else { Ok(request) };
        let encrypted = peer.encrypted;
        let (answered, answers, busy) = (answer(peer.clone(), asked), answers.clone(), asking.busy());
        async move {
            let mut answer = answered.await;
            drop(busy);
            harden(answer.headers_mut(), encrypted);
            if refused {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let keep = answer.extensions_mut().remove::<Keep>();
            keep.iter().for_each(|keep| answers.answered(keep));
            Ok::<_, Infallible>(answer.map(|body| Held::new(body, keep)))
        }
    });
    let guarded = Guarded::new(stream, fault, guard.bounds.taken);
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(guarded), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = seat.lost() => Ok(()),
        () = untaken.late(guard.bounds.taken) => {
            guard.metrics.refuse(port, "unread");
            Ok(())
        }
        () = trusted.left() => {
            guard.metrics.refuse(port, "authority");
            served.as_mut().graceful_shutdown();
            timeout(LEAVE, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        let error: &dyn std::error::Error = &error;
        tracing::debug!(%address, error, "an HTTP connection broke off");
    }
}

/// A connection whose heads are judged before they are read.
struct Guarded {
    stream: Stream,
    guard: HeadGuard,
    fault: Arc<OnceLock<HeadFault>>,
    /// As it came from the peer, not judged yet.
    raw: Vec<u8>,
    /// Judged, not read yet.
    good: Vec<u8>,
    read: usize,
    /// For the peer to take something when it is to be written.
    patience: Duration,
    /// Something is to be written and was not taken since.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(stream: Stream, fault: Arc<OnceLock<HeadFault>>, patience: Duration) -> Self {
        let (guard, raw, good) = (HeadGuard::default(), Vec::new(), Vec::new());
        Self { stream, guard, fault, raw, good, read: 0, patience, stalled: None }
    }

    /// What came of writing, or that nothing was taken for too long: nothing else ends a connection over HTTP/1.1 whose peer does not read.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer has taken nothing for too long")))
    }

    fn judge(&mut self) {
        let mut rest = &self.raw[..];
        while !rest.is_empty() && self.fault.get().is_none() {
            match self.guard.feed(rest) {
                Ok((step, taken)) => {
                    match step {
                        Step::Head(head) => self.good.extend_from_slice(&head),
                        Step::Body(length) => self.good.extend_from_slice(&rest[..length]),
                        Step::More => {}
                    }
                    rest = &rest[taken..];
                }
                Err(fault) => {
                    // Set once: what follows is not looked at.
                    let _ = self.fault.set(fault);
                    self.good.extend_from_slice(REFUSED);
                }
            }
        }
        self.raw.clear();
    }

    /// Moves what was judged; true when there was something.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = &self.good[self.read..];
        if rest.is_empty() {
            return false;
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.read += length;
        if self.read == self.good.len() {
            self.good.clear();
            self.read = 0;
        }
        true
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; AT_ONCE];
            let mut part = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            // The end of the connection; or nothing is read any more after what was refused, which is the same to the reader.
            if part.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.fault.get().is_none() {
                self.raw.extend_from_slice(part.filled());
                self.judge();
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.in_time(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
