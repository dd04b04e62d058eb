//! Intents: what is about to be written at AWS, stored before the call under the lease's epoch, in the statement that also locks
//! the lease row against a take-over. After a crash the next holder finds what may have happened (I7, I11).

use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{ids::Epoch, plan::step::Step};

use super::{
    Store,
    error::{Query, StoreError},
    lease::{Fence, FencedError, held_lease},
    values::{at, from_json, signed, text, to_json, unsigned},
};

/// An intent without an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    /// Its id.
    pub id: i64,
    /// The epoch that it was recorded in.
    pub epoch: Epoch,
    /// The step; none when a newer version wrote it in a form that this one does not know.
    pub step: Option<Step>,
    /// The policy, as `namespace/name`.
    pub policy: String,
    /// The ELBv2 operation.
    pub operation: String,
    /// When.
    pub recorded_at: Timestamp,
}

impl Store {
    /// Records a step before its call; the answer is its id.
    ///
    /// # Errors
    /// [`FencedError`]; the call must not be made then.
    pub async fn intent_open(&self, scope: &str, epoch: Epoch, step: &Step) -> Result<i64, FencedError> {
        let insert = concat!(
            "with lease as (",
            held_lease!(),
            ") insert into intents (scope, epoch, policy, operation, step) \
             select lease.scope, lease.epoch, $3, $4, $5 from lease returning id"
        );
        let insert = sqlx::query_scalar::<_, i64>(insert)
            .bind(scope)
            .bind(signed(epoch.0))
            .bind(step.policy.to_string())
            .bind(step.action.operation())
            .bind(to_json("a step", step)?);
        match self.run(Query::IntentOpen, insert.fetch_optional(&self.pool)).await? {
            Some(id) => Ok(id),
            None => Err(self.fence_refusal(&self.pool, Fence { scope, epoch }).await),
        }
    }

    /// Records what came of a step: a short word (1 to 64 characters) and a detail (at most 4096). The first outcome stays;
    /// false when there was one already.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn intent_close(&self, id: i64, outcome: &str, detail: &str) -> Result<bool, StoreError> {
        let update = "update intents set outcome = $2, detail = $3, finished_at = clock_timestamp() \
                      where id = $1 and outcome is null";
        let update = sqlx::query(update).bind(id).bind(text(outcome, 64)).bind(text(detail, 4096));
        let closed = self.run(Query::IntentClose, update.execute(&self.pool)).await?;
        Ok(closed.rows_affected() > 0)
    }

    /// The intents without an outcome of a scope, up to and with this epoch, oldest first: what a new holder has to read back.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn intents_open(&self, scope: &str, epoch: Epoch) -> Result<Vec<OpenIntent>, StoreError> {
        type Row = (i64, i64, Json<Value>, String, String, jiff_sqlx::Timestamp);
        let read = "select id, epoch, step, policy, operation, recorded_at from intents \
                    where scope = $1 and epoch <= $2 and outcome is null order by id";
        let read = sqlx::query_as::<_, Row>(read).bind(scope).bind(signed(epoch.0));
        let rows = self.run(Query::IntentsOpen, read.fetch_all(&self.pool)).await?;
        let intent = |(id, epoch, step, policy, operation, recorded_at): Row| {
            Ok(OpenIntent {
                id,
                epoch: Epoch(unsigned("an intent's epoch", epoch)?),
                step: from_json("an intent's step", step).ok(),
                policy,
                operation,
                recorded_at: at(recorded_at),
            })
        };
        rows.into_iter().map(intent).collect()
    }
}
