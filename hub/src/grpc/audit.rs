//! AuditService: the audit log, page by page, from the store. Writes nothing. Tests: `hub/tests/grpc_audit.rs`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use prost::Message;
use switchyard_core::{
    access::{Role, Touch},
    ids::{Namespace, PolicyKey, ShiftId},
};
use switchyard_proto::api::v1::{self as proto, audit_service_server::AuditService};
use tonic::{Request, Response, Status};

use super::{
    Reading,
    caller::{may_read_namespace, may_read_policy, reader},
    convert::{from_proto_time, to_proto_time},
    errors::ApiError,
    page, required,
};
use crate::store::{AuditFilter, AuditResult, AuditRow, Caller, Store};

/// Entries on one page; see the .proto file.
const DEFAULT_PAGE: u32 = 100;
const MOST_PAGE: u32 = 1000;
/// Bytes of one page: half of what gRPC clients take in one message by default. An entry may hold two specs of 64 KiB, so a page
/// ends early rather than not arriving.
const MOST_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Entries that are read at once, for the same reason.
const CHUNK: usize = 50;
/// Characters of an actor, as the store keeps them.
const MOST_ACTOR: usize = 256;

/// The service.
pub struct Audit {
    store: Store,
    reading: Reading,
}

impl Audit {
    /// A service over this store.
    pub fn new(store: Store, reading: Reading) -> Self {
        Self { store, reading }
    }

    async fn list(
        &self,
        caller: &Caller,
        request: &proto::ListAuditEntriesRequest,
    ) -> Result<proto::ListAuditEntriesResponse, ApiError> {
        let filter = AuditFilter { visible: visible(caller), ..filter(request)? };
        check_asked(caller, &filter)?;
        let size = page::size(request.page_size, DEFAULT_PAGE, MOST_PAGE)?;
        let mut after = after(&request.page_token)?;
        let (mut page, mut bytes) = (proto::ListAuditEntriesResponse::default(), 0);
        loop {
            // One more than is shown tells whether there is another page.
            let want = (size - page.entries.len()).min(CHUNK);
            let most = u32::try_from(want + 1).unwrap_or(MOST_PAGE);
            let rows = self.store.audit_page(&filter, request.oldest_first, after, most).await?;
            let more = rows.len() > want;
            for row in rows.iter().take(want) {
                let shown = to_proto_entry(row);
                bytes += shown.encoded_len();
                if !page.entries.is_empty() && bytes > MOST_PAGE_BYTES {
                    page.next_page_token = token(after);
                    return Ok(page);
                }
                page.entries.push(shown);
                after = Some(row.id);
            }
            if !more {
                return Ok(page);
            }
            if page.entries.len() >= size {
                page.next_page_token = token(after);
                return Ok(page);
            }
        }
    }

    /// The chain is over all entries, so it is for those who may read all of them.
    async fn head(&self, caller: &Caller) -> Result<proto::GetAuditHeadResponse, ApiError> {
        caller.may(Role::Viewer, &Touch::Hub, "read the head of the audit log")?;
        let Some(head) = self.store.audit_head().await? else { return Ok(proto::GetAuditHeadResponse::default()) };
        Ok(proto::GetAuditHeadResponse {
            id: u64::try_from(head.id).unwrap_or_default(),
            hash: head.hash.to_vec(),
            at: Some(to_proto_time(head.at)),
        })
    }
}

/// What the caller may see: entries about policies of his namespaces; those about no policy, such as what was done to whole
/// clusters or to access, only with a role over everything.
fn visible(caller: &Caller) -> Option<BTreeSet<Namespace>> {
    if caller.grants.sees_all() {
        return None;
    }
    // A grant over all namespaces and some clusters sees every policy, and still nothing of the hub.
    Some(caller.grants.seen_namespaces().unwrap_or_default())
}

/// Whoever asks by name for what he may not see is told so: an empty answer would say that nothing happened.
fn check_asked(caller: &Caller, filter: &AuditFilter) -> Result<(), ApiError> {
    if let Some(policy) = &filter.policy {
        may_read_policy(caller, policy)?;
    }
    if let Some(namespace) = &filter.namespace {
        may_read_namespace(caller, namespace)?;
    }
    Ok(())
}

fn filter(request: &proto::ListAuditEntriesRequest) -> Result<AuditFilter, ApiError> {
    let policy: Option<PolicyKey> = request.policy.as_ref().map(|policy| required(Some(policy))).transpose()?;
    let shift: Option<ShiftId> = super::optional("shift_id", &request.shift_id)?;
    if request.actor.chars().count() > MOST_ACTOR || request.actor.contains('\0') {
        let remedy = "use the actor of an entry, word for word";
        return Err(ApiError::violation("actor", &request.actor, "is no actor", remedy));
    }
    Ok(AuditFilter {
        namespace: super::optional("namespace", &request.namespace)?,
        policy,
        shift,
        actor: (!request.actor.is_empty()).then(|| request.actor.clone()),
        since: time("since", request.since.as_ref())?,
        before: time("before", request.before.as_ref())?,
        result: result(&request.result)?,
        above: above(request.after_id)?,
        visible: None,
    })
}

fn time(field: &str, at: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, ApiError> {
    let Some(at) = at else { return Ok(None) };
    let value = format!("{} s, {} ns", at.seconds, at.nanos);
    let remedy = "use a time from 0001-01-01 to 9999-12-31 with 0 to 999999999 nanoseconds";
    let time = from_proto_time(at).ok_or_else(|| ApiError::violation(field, &value, "is no time", remedy))?;
    Ok(Some(time))
}

fn result(word: &str) -> Result<Option<AuditResult>, ApiError> {
    if word.is_empty() {
        return Ok(None);
    }
    let remedy = "use done, refused or failed, or leave it out for all";
    let result = AuditResult::parse(word).ok_or_else(|| ApiError::violation("result", word, "is no result", remedy))?;
    Ok(Some(result))
}

fn above(id: u64) -> Result<Option<i64>, ApiError> {
    if id == 0 {
        return Ok(None);
    }
    let remedy = "use the id of an entry, or leave it out for all";
    let above = i64::try_from(id);
    above.map(Some).map_err(|_| ApiError::violation("after_id", &id.to_string(), "is no id of an entry", remedy))
}

fn token(after: Option<i64>) -> String {
    after.map(|id| page::token(&[&id.to_string()])).unwrap_or_default()
}

fn after(token: &str) -> Result<Option<i64>, ApiError> {
    let Some(parts) = page::parse(token, 1)? else { return Ok(None) };
    parts[0].parse().map(Some).map_err(|_| page::not_ours(token))
}

fn to_proto_entry(row: &AuditRow) -> proto::AuditEntry {
    proto::AuditEntry {
        id: u64::try_from(row.id).unwrap_or_default(),
        at: Some(to_proto_time(row.at)),
        actor: row.actor.clone(),
        action: row.action.clone(),
        policy: row.policy.clone(),
        shift_id: row.shift.clone().unwrap_or_default(),
        from_weights: row.from_weights().into_iter().collect(),
        to_weights: row.to_weights().into_iter().collect(),
        overrides: row.overrides(),
        reason: row.reason.clone(),
        request_id: row.request_id.clone(),
        detail_json: row.detail_text.clone(),
        source: row.source.clone(),
        result: row.result.as_str().to_owned(),
        hash: row.hash.to_vec(),
        previous_hash: row.previous_hash.to_vec(),
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_entries(
        &self,
        request: Request<proto::ListAuditEntriesRequest>,
    ) -> Result<Response<proto::ListAuditEntriesResponse>, Status> {
        let result = self.list(&reader(&request), request.get_ref()).await;
        self.reading.answer("ListAuditEntries", result)
    }

    async fn get_audit_head(
        &self,
        request: Request<proto::GetAuditHeadRequest>,
    ) -> Result<Response<proto::GetAuditHeadResponse>, Status> {
        let result = self.head(&reader(&request)).await;
        self.reading.answer("GetAuditHead", result)
    }
}
