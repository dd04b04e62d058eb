//! A watch of one shift. What the news mean is decided in `shift_wait`.

use switchyard_proto::api::v1 as pb;
use tonic::Status;

use super::{
    Hub, Token,
    reopening::{Raw, Reopening},
};
use crate::{
    error::{Failure, retry_after},
    model::Shift,
};

/// What a watch gives. Errors that a reconnect may heal are news (`Lost`), the others are failures.
#[derive(Clone, Debug)]
pub enum ShiftNews {
    Opened,
    Shift(Box<Shift>),
    /// The hub knows no such shift.
    NotFound,
    Lost(String),
}

pub struct ShiftWatch {
    hub: Hub,
    id: String,
    stream: Reopening<pb::WatchShiftResponse>,
    /// The token that the stream was opened with.
    sent: Option<Token>,
}

impl ShiftWatch {
    pub(super) fn new(hub: Hub, id: &str) -> Self {
        Self { hub, id: id.into(), stream: Reopening::new(), sent: None }
    }

    /// The next news. May be dropped at any await and called again: nothing is lost.
    pub async fn next(&mut self) -> Result<ShiftNews, Failure> {
        let (hub, id, sent) = (&self.hub, &self.id, &mut self.sent);
        let open = || {
            let mut client = Hub::shifts(hub.channel.clone());
            let request = hub.proved(pb::WatchShiftRequest { id: id.clone() }).map(|(request, token)| {
                *sent = token;
                request
            });
            async move { client.watch_shift(request?).await }
        };
        match self.stream.next(open).await {
            Raw::Opened => Ok(ShiftNews::Opened),
            Raw::Message(pb::WatchShiftResponse { shift: Some(shift) }) => Ok(ShiftNews::Shift(Box::new(shift.into()))),
            Raw::Message(pb::WatchShiftResponse { shift: None }) => {
                self.stream.lost();
                Ok(ShiftNews::Lost("the hub sent an event without a shift".into()))
            }
            Raw::Broken(status) => self.broken(&status),
        }
    }

    fn broken(&mut self, status: &Status) -> Result<ShiftNews, Failure> {
        // Asked again after a pause, if the caller goes on.
        self.stream.lost_for(retry_after(status));
        let what = format!("cannot watch shift {}", self.id);
        Ok(self.hub.broken(&what, status, self.sent.as_ref())?.map_or(ShiftNews::NotFound, ShiftNews::Lost))
    }
}
