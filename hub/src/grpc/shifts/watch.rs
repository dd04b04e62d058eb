//! WatchShift: the shift as it is, then as it is after each change, to its final state. Level-triggered: what is sent is looked up
//! when there is room for it, so a slow watcher skips what came in between and gets the latest.
//!
//! Pictures come in the order of versions, but the first look may have been past the picture, at the store: what is older than
//! what was told is not told.

use std::sync::Arc;

use switchyard_core::{ids::ShiftId, shift::Shift};
use switchyard_proto::api::v1 as proto;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::show::to_proto_shift;
use crate::{
    feed::Picture,
    grpc::errors::{ApiError, to_status},
    store::Store,
};

type Answer = Result<proto::WatchShiftResponse, Status>;

/// One watcher.
pub struct Watch {
    /// The shift as it was found when the call came in.
    pub shift: Arc<Shift>,
    /// Every picture.
    pub pictures: watch::Receiver<Arc<Picture>>,
    /// For a shift that has left the picture.
    pub store: Store,
    /// To the watcher.
    pub outbox: mpsc::Sender<Answer>,
    /// Ends it.
    pub shutdown: CancellationToken,
}

/// Tells one watcher, until the shift is over, or it or the hub goes away.
pub async fn run(mut watch: Watch) {
    let mut told: Option<proto::Shift> = None;
    let mut shift = Arc::clone(&watch.shift);
    loop {
        let permit = tokio::select! {
            permit = watch.outbox.clone().reserve_owned() => match permit {
                Ok(permit) => permit,
                Err(_) => return,
            },
            () = watch.shutdown.cancelled() => return end(&watch.outbox, ApiError::Shutdown),
        };
        // The picture is let go before anything is waited for: a watcher must not keep an old inventory alive.
        let picture = Arc::clone(&watch.pictures.borrow_and_update());
        shift = match latest(&watch.store, &picture, &shift).await {
            Ok(shift) => shift,
            Err(error) => {
                drop(permit);
                return end(&watch.outbox, error);
            }
        };
        let shown = to_proto_shift(&shift, &picture);
        drop(picture);
        if told.as_ref() != Some(&shown) {
            permit.send(Ok(proto::WatchShiftResponse { shift: Some(shown.clone()) }));
            told = Some(shown);
            if !shift.is_active() {
                return;
            }
        }
        let alive = tokio::select! {
            changed = watch.pictures.changed() => changed.is_ok(),
            () = watch.outbox.closed() => return,
            () = watch.shutdown.cancelled() => false,
        };
        if !alive {
            return end(&watch.outbox, ApiError::Shutdown);
        }
    }
}

/// The newest that is known of it.
async fn latest(store: &Store, picture: &Picture, known: &Arc<Shift>) -> Result<Arc<Shift>, ApiError> {
    match picture.shifts.get(&known.id) {
        Some(shift) if shift.version >= known.version => Ok(Arc::clone(shift)),
        Some(_) => Ok(Arc::clone(known)),
        // It ended, and many others after it, between two looks; or it is newer than the picture.
        None if picture.loaded && known.is_active() => find(store, &known.id).await,
        None => Ok(Arc::clone(known)),
    }
}

async fn find(store: &Store, id: &ShiftId) -> Result<Arc<Shift>, ApiError> {
    let found = store.shift_get(id).await?;
    found.map(Arc::new).ok_or_else(|| ApiError::NoShift(id.clone()))
}

fn end(outbox: &mpsc::Sender<Answer>, error: ApiError) {
    // Told when there is room; a caller that does not read sees the connection end.
    drop(outbox.try_send(Err(to_status(&error))));
}
