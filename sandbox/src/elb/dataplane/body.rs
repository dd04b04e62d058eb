//! Bodies that pass through the proxy. The body of an answer holds its request's place in the count of outstanding
//! requests, and breaks off when the deregistration delay has passed or nothing moves for the idle timeout.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::elb::model::Live;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = BoxBody<Bytes, BoxError>;

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub fn full(text: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// One request under way to a target; counts as outstanding until it is dropped.
pub struct InFlight(Arc<Live>);

impl InFlight {
    /// Taken under the lock of the state, so that the choice of the next request sees it.
    pub fn start(live: &Arc<Live>) -> Self {
        live.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(live))
    }

    pub fn live(&self) -> &Arc<Live> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the deregistration delay of the target has passed")]
    Cut,
    #[error("the target sent nothing for the idle timeout")]
    Idle,
}

/// The body of a target's answer.
pub struct TargetBody {
    inner: Incoming,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    _in_flight: InFlight,
    on_break: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl TargetBody {
    pub fn new(
        inner: Incoming,
        in_flight: InFlight,
        idle_timeout: Duration,
        on_break: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            cut: Box::pin(in_flight.live().cut.clone().cancelled_owned()),
            idle: Box::pin(tokio::time::sleep(idle_timeout)),
            idle_timeout,
            _in_flight: in_flight,
            on_break: Some(Box::new(on_break)),
        }
    }

    fn broken(&mut self, error: impl Into<BoxError>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(tell) = self.on_break.take() {
            tell();
        }
        Poll::Ready(Some(Err(error.into())))
    }
}

impl HttpBody for TargetBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // What has arrived is passed on first; only waiting can be cut.
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let next = Instant::now() + self.idle_timeout;
                self.idle.as_mut().reset(next);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => self.broken(error),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => self.broken(Broken::Cut),
            Poll::Pending if self.idle.as_mut().poll(cx).is_ready() => self.broken(Broken::Idle),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
