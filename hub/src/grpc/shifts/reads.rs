//! Reading shifts: one, and lists. From the picture where it holds them, else from the store. Tests: `hub/tests/grpc_shifts.rs`.

use std::sync::Arc;

use prost::Message;
use switchyard_core::{
    ids::ShiftId,
    shift::{Move, Shift},
};
use switchyard_proto::api::v1 as proto;

use super::{Shifts, shift_id, show::to_proto_shift};
use crate::{
    feed::Picture,
    grpc::{
        caller::{may_read_namespace, may_read_policy, may_read_shift},
        errors::ApiError,
        optional, page, required,
    },
    store::{Caller, ShiftFilter, ShiftPage},
};

/// Shifts on one page; see the .proto file.
const DEFAULT_PAGE: u32 = 50;
const MOST_PAGE: u32 = 200;
/// Bytes of one page: half of what gRPC clients take in one message by default. A page ends early rather than not arriving.
const MOST_PAGE_BYTES: usize = 2 * 1024 * 1024;

impl Shifts {
    /// From the picture, or for old ones from the store.
    pub(super) async fn find(&self, id: &ShiftId) -> Result<(Arc<Shift>, Arc<Picture>), ApiError> {
        let picture = self.picture()?;
        if let Some(shift) = picture.shifts.get(id) {
            return Ok((Arc::clone(shift), picture));
        }
        let found = self.parts.store.shift_get(id).await?;
        Ok((found.map(Arc::new).ok_or_else(|| ApiError::NoShift(id.clone()))?, picture))
    }

    pub(super) async fn get(
        &self,
        caller: &Caller,
        request: &proto::GetShiftRequest,
    ) -> Result<proto::GetShiftResponse, ApiError> {
        let (shift, picture) = self.find(&shift_id(&request.id)?).await?;
        may_read_shift(caller, &shift)?;
        Ok(proto::GetShiftResponse { shift: Some(to_proto_shift(&shift, &picture)) })
    }

    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: &proto::ListShiftsRequest,
    ) -> Result<proto::ListShiftsResponse, ApiError> {
        let filter = ShiftFilter {
            namespace: optional("namespace", &request.namespace)?,
            policy: request.policy.as_ref().map(|policy| required(Some(policy))).transpose()?,
            active: request.active,
            seen: caller.grants.seen_namespaces(),
        };
        filter.namespace.iter().try_for_each(|namespace| may_read_namespace(caller, namespace))?;
        filter.policy.iter().try_for_each(|key| may_read_policy(caller, key))?;
        let size = page::size(request.page_size, DEFAULT_PAGE, MOST_PAGE)?;
        let after = after(&request.page_token)?;
        let picture = self.picture()?;
        let most = u32::try_from(size).unwrap_or(MOST_PAGE);
        let ShiftPage { shifts, next } = match self.parts.store.shifts_list(&filter, after.as_ref(), most).await {
            Ok(page) => page,
            // Shifts under way and those that ended last are in memory too; where a page begins is not.
            Err(error) if error.is_unavailable() && after.is_none() => remembered(&picture, &filter, size),
            Err(error) => return Err(error.into()),
        };
        let mut page = proto::ListShiftsResponse::default();
        let mut next = next.map(|id| page::token(&[id.as_str()])).unwrap_or_default();
        let mut bytes = 0;
        for (i, shift) in shifts.iter().enumerate() {
            let shown = to_proto_shift(shift, &picture);
            bytes += shown.encoded_len();
            if i > 0 && bytes > MOST_PAGE_BYTES {
                next = page::token(&[shifts[i - 1].id.as_str()]);
                break;
            }
            page.shifts.push(shown);
        }
        page.next_page_token = next;
        Ok(page)
    }
}

/// The last shift of the page before.
fn after(token: &str) -> Result<Option<ShiftId>, ApiError> {
    let Some(parts) = page::parse(token, 1)? else { return Ok(None) };
    parts[0].parse().map(Some).map_err(|_| page::not_ours(token))
}

/// The first page from memory, while the store is away.
fn remembered(picture: &Picture, filter: &ShiftFilter, size: usize) -> ShiftPage {
    let wanted = |shift: &Shift| {
        let seen = |one: &Move| filter.seen.as_ref().is_none_or(|seen| seen.contains(&one.policy.namespace));
        (shift.is_active() || !filter.active)
            && shift.moves.iter().all(seen)
            && shift.moves.iter().any(|one| {
                filter.namespace.as_ref().is_none_or(|namespace| *namespace == one.policy.namespace)
                    && filter.policy.as_ref().is_none_or(|policy| *policy == one.policy)
            })
    };
    let mut shifts: Vec<&Arc<Shift>> = picture.shifts.values().filter(|shift| wanted(shift)).collect();
    shifts.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    let next = shifts.get(size).map(|_| shifts[size - 1].id.clone());
    ShiftPage { shifts: shifts.into_iter().take(size).map(|shift| Shift::clone(shift)).collect(), next }
}
