//! Callers who go away while something is being written for them: a call that is broken off, a stream that ends.

mod store_support;

use std::pin::pin;

use jiff::Timestamp;
use store_support::{database, eventually};
use switchyard_hub::store::{AuditResult, RefusedEntry};

/// Looks at a write after which it is left; what is not done by then is at the latest the last of its statements.
const MOST_LOOKS: usize = 20;
const ROUNDS: usize = 10;

fn entry() -> RefusedEntry {
    let now = Timestamp::now();
    RefusedEntry {
        actor: "token:ci".to_owned(),
        source: "10.0.0.1".to_owned(),
        rpc: "switchyard.api.v1.PolicyService/ApplyPolicy".to_owned(),
        code: "permission_denied".to_owned(),
        message: "no".to_owned(),
        request_id: String::new(),
        result: AuditResult::Refused,
        count: 1,
        first_at: now,
        last_at: now,
    }
}

#[tokio::test]
async fn a_write_that_is_left_at_any_moment_leaves_no_transaction_open() {
    let db = database().await;
    let open = "select count(*) from pg_stat_activity \
                where datname = current_database() and application_name = 'switchyard-hub' and state <> 'idle'";
    for looks in (1..=MOST_LOOKS).cycle().take(MOST_LOOKS * ROUNDS) {
        {
            let entries = [entry()];
            let mut write = pin!(db.store.audit_refused(&entries));
            for _ in 0..looks {
                if futures::poll!(&mut write).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // A transaction that was forgotten stays open for as long as nobody uses its connection.
        let what = format!("no open transaction after a write that was left at look {looks}");
        eventually(&what, async || {
            let open: i64 = sqlx::query_scalar(open).fetch_one(&db.raw).await.unwrap();
            (open == 0).then_some(())
        })
        .await;
    }
    db.store.audit_refused(&[entry()]).await.unwrap();
}
