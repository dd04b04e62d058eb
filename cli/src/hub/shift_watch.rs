//! A watch of one shift. What the news mean is decided in `shift_wait`.

use switchyard_proto::api::v1 as pb;
use tonic::{Code, Status};

use super::{
    Hub,
    reopening::{Raw, Reopening},
};
use crate::{
    error::{Failure, Kind, from_status, with_causes},
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
}

impl ShiftWatch {
    pub(super) fn new(hub: Hub, id: &str) -> Self {
        Self { hub, id: id.into(), stream: Reopening::new() }
    }

    /// The next news. May be dropped at any await and called again: nothing is lost.
    pub async fn next(&mut self) -> Result<ShiftNews, Failure> {
        let (channel, id) = (&self.hub.channel, &self.id);
        let open = || {
            let (mut client, request) = (Hub::shifts(channel.clone()), pb::WatchShiftRequest { id: id.clone() });
            async move { client.watch_shift(request).await }
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
        self.stream.lost();
        match status.code() {
            Code::NotFound => Ok(ShiftNews::NotFound),
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                Err(from_status(&format!("cannot watch shift {}", self.id), &self.hub.url, Kind::Read, status))
            }
            _ => Ok(ShiftNews::Lost(with_causes(status))),
        }
    }
}
