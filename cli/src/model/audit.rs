//! Entries of the audit log: as they are shown, and as links of the chain that their hashes make.

use jiff::Timestamp;
use serde::Serialize;
use switchyard_core::audit::Link;
use switchyard_proto::api::v1 as pb;

use super::{convert::time, shift::Weights};
use crate::text::hex;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AuditEntry {
    pub id: u64,
    pub at: Option<Timestamp>,
    pub actor: String,
    pub action: String,
    pub policy: String,
    pub shift_id: String,
    pub from_weights: Weights,
    pub to_weights: Weights,
    pub overrides: Vec<String>,
    pub reason: String,
    pub request_id: String,
    pub detail: serde_json::Value,
    /// Where the call came from; empty for what the hub did by itself.
    pub source: String,
    /// `done`, `refused` or `failed`; empty: of an older hub.
    pub result: String,
    /// In hexadecimal digits.
    pub hash: String,
    pub previous_hash: String,
}

impl From<pb::AuditEntry> for AuditEntry {
    fn from(from: pb::AuditEntry) -> Self {
        // As with a policy's spec: text which is not JSON is shown as it is.
        let detail = match from.detail_json.as_str() {
            "" => serde_json::Value::Null,
            text => serde_json::from_str(text).unwrap_or(serde_json::Value::String(text.into())),
        };
        Self {
            id: from.id,
            at: time(from.at),
            actor: from.actor,
            action: from.action,
            policy: from.policy,
            shift_id: from.shift_id,
            from_weights: from.from_weights.into_iter().collect(),
            to_weights: from.to_weights.into_iter().collect(),
            overrides: from.overrides,
            reason: from.reason,
            request_id: from.request_id,
            detail,
            source: from.source,
            result: from.result,
            hash: hex(&from.hash),
            previous_hash: hex(&from.previous_hash),
        }
    }
}

/// The entry as its hash is made of it; nothing when its time is none.
pub fn link(entry: &pb::AuditEntry) -> Option<Link<'_>> {
    Some(Link {
        id: entry.id,
        at: time(entry.at)?,
        actor: &entry.actor,
        action: &entry.action,
        policy: &entry.policy,
        shift_id: &entry.shift_id,
        detail: &entry.detail_json,
        reason: &entry.reason,
        request_id: &entry.request_id,
        source: &entry.source,
        result: &entry.result,
    })
}
