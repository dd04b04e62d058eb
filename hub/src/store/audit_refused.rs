//! What callers asked for and did not get, in the audit log. Whoever notes it has put equal refusals together before: a flood of
//! them must not become a flood of rows. Nothing here waits for a lock but that of the chain. Tests: `hub/tests/store_audit.rs`.

use jiff::Timestamp;
use serde_json::json;

use super::{
    Store,
    audit::{AuditResult, Entry},
    error::StoreError,
    values::text,
};

/// Characters of the message of a refusal.
const MOST_MESSAGE: usize = 1024;
/// Characters of an action, as the schema has it.
const MOST_ACTION: usize = 64;
/// Refusals that are written in one transaction: the chain's lock is held through it, some 0.2 ms each.
const MOST_AT_ONCE: usize = 100;

/// Refusals of one kind to one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedEntry {
    /// Who asked, as the log names callers; 1 to 256 characters.
    pub actor: String,
    /// From where, as far as it is known; the first address when there were several.
    pub source: String,
    /// The call, such as `PolicyService/ApplyPolicy` or with its package before it. It may come from outside: only letters,
    /// digits and `./_-` of it are kept.
    pub rpc: String,
    /// The code that the caller got, such as `permission_denied`.
    pub code: String,
    /// What the first caller was told; cut at 1024 characters.
    pub message: String,
    /// The request id of the first one, when it had one.
    pub request_id: String,
    /// [`AuditResult::Refused`] when the caller may not, [`AuditResult::Failed`] when something else stood in the way.
    pub result: AuditResult,
    /// How many.
    pub count: u64,
    /// The first.
    pub first_at: Timestamp,
    /// The last.
    pub last_at: Timestamp,
}

impl Store {
    /// Notes refusals, at most 100 in one transaction. What was written when an error comes stays written; those after it may be given
    /// again.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn audit_refused(&self, refused: &[RefusedEntry]) -> Result<(), StoreError> {
        for some in refused.chunks(MOST_AT_ONCE) {
            let mut txn = self.begin().await?;
            for one in some {
                let action = action(&one.rpc);
                let entry = Entry {
                    actor: if one.actor.is_empty() { "unknown" } else { &one.actor },
                    action: &action,
                    policy: None,
                    shift: None,
                    detail: json!({
                        "rpc": text(&one.rpc, 256),
                        "code": text(&one.code, 64),
                        "message": text(&one.message, MOST_MESSAGE),
                        "count": one.count,
                        "firstAt": one.first_at,
                        "lastAt": one.last_at,
                    }),
                    reason: "",
                    request_id: &one.request_id,
                    source: &one.source,
                };
                self.audit_as(&mut txn, entry, one.result).await?;
            }
            self.commit(txn).await?;
        }
        Ok(())
    }
}

/// `PolicyService/ApplyPolicy` of `/switchyard.api.v1.PolicyService/ApplyPolicy`.
fn action(rpc: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "./_-".contains(c) { c } else { '?' };
    let clean: String = rpc.trim_start_matches('/').chars().take(256).map(kept).collect();
    let short = match clean.split_once('/') {
        Some((service, method)) => format!("{}/{method}", service.rsplit('.').next().unwrap_or(service)),
        None => clean,
    };
    let short: String = short.chars().take(MOST_ACTION).collect();
    if short.is_empty() { "unknown".to_owned() } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_shortly_and_holds_nothing_that_could_be_taken_for_something_else() {
        assert_eq!(action("/switchyard.api.v1.PolicyService/ApplyPolicy"), "PolicyService/ApplyPolicy");
        assert_eq!(action("PolicyService/ApplyPolicy"), "PolicyService/ApplyPolicy");
        assert_eq!(action(""), "unknown");
        assert_eq!(action("a\n'; drop table audit; --"), "a????drop?table?audit??--");
        assert_eq!(action(&"x/".repeat(500)).chars().count(), MOST_ACTION);
    }
}
