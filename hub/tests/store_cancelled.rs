//! Callers who go away while something is being written for them: a call that is broken off, a stream that ends.

mod store_support;

use std::{future::poll_fn, pin::pin, task::Poll};

use jiff::Timestamp;
use store_support::{database, eventually};
use switchyard_hub::store::{AuditResult, RefusedEntry};

/// Looks at a write after which it is left; with so many it is mostly done.
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
            let mut looked = 0;
            // Each look but the first follows a step of the write: an answer of the database, a connection that is there.
            let left = poll_fn(|context| {
                looked += 1;
                let done = write.as_mut().poll(context).is_ready();
                if done || looked == looks { Poll::Ready(()) } else { Poll::Pending }
            });
            left.await;
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
