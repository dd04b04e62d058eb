//! Notifications between replicas: small hints that something moved. They may be lost; whoever listens reads the store anew.

use std::time::Duration;

use futures::{Stream, stream};
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use switchyard_core::ids::ClusterName;

use super::{
    Store,
    error::{Query, StoreError},
    values::Conn,
};

/// The one channel.
const CHANNEL: &str = "switchyard";
/// Waits between two tries to listen again: long enough not to hammer a database that is starting.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A policy, its weights or its existence.
    Policies,
    /// The status of a policy.
    Status,
    /// A shift that moved no weights, or a gating switch.
    Shifts,
    /// What operators want of a cluster.
    Fleet,
    /// Services, endpoints or the session of a cluster.
    Cluster(ClusterName),
    /// Listening was interrupted: anything may have moved.
    Reconnected,
}

impl Notice {
    fn payload(&self) -> String {
        match self {
            Notice::Policies => "policies".to_owned(),
            Notice::Status => "status".to_owned(),
            Notice::Shifts => "shifts".to_owned(),
            Notice::Fleet => "fleet".to_owned(),
            Notice::Cluster(name) => format!("cluster:{name}"),
            Notice::Reconnected => "reconnected".to_owned(),
        }
    }

    /// Payloads of a newer version are passed over.
    fn parse(payload: &str) -> Option<Self> {
        match payload {
            "policies" => Some(Notice::Policies),
            "status" => Some(Notice::Status),
            "shifts" => Some(Notice::Shifts),
            "fleet" => Some(Notice::Fleet),
            other => other.strip_prefix("cluster:")?.parse().ok().map(Notice::Cluster),
        }
    }
}

struct Listening {
    store: Store,
    pool: PgPool,
    listener: Option<PgListener>,
}

impl Store {
    /// Notices of all replicas, this one included. The stream reconnects by itself and yields [`Notice::Reconnected`] after a
    /// gap; it never ends.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the first connection fails.
    pub async fn listen(&self) -> Result<impl Stream<Item = Notice> + Send + use<>, StoreError> {
        // A pool of its own: a listener keeps its connection for good.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.options.acquire_timeout)
            .connect_lazy_with(self.connect_options());
        let listener = self.run(Query::Listen, subscribe(&pool)).await?;
        let state = Listening { store: self.clone(), pool, listener: Some(listener) };
        Ok(Box::pin(stream::unfold(state, |mut state| async move {
            let notice = next(&mut state).await;
            Some((notice, state))
        })))
    }

    /// Within the writing transaction, so that nobody hears of it before it is there.
    pub(super) async fn notify(&self, conn: &mut Conn, notice: &Notice) -> Result<(), StoreError> {
        let notify = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(notice.payload());
        self.run(Query::Notify, notify.execute(conn)).await.map(|_| ())
    }
}

async fn subscribe(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

async fn next(state: &mut Listening) -> Notice {
    // The driver would reconnect by itself, but says nothing of a reconnect that comes after a failed one.
    while let Some(listener) = &mut state.listener {
        match listener.try_recv().await {
            Ok(Some(notification)) => {
                if let Some(notice) = Notice::parse(notification.payload()) {
                    return notice;
                }
            }
            Ok(None) => return Notice::Reconnected,
            Err(error) => {
                tracing::warn!(error = %error, "the database connection that listens for notices was lost; connecting again");
                state.listener = None;
            }
        }
    }
    let mut wait = RETRY_FIRST;
    loop {
        // The password may be another one by now.
        state.pool.set_connect_options(state.store.connect_options());
        match subscribe(&state.pool).await {
            Ok(listener) => {
                tracing::info!("listening for notices of the database again");
                state.listener = Some(listener);
                return Notice::Reconnected;
            }
            Err(error) => {
                tracing::debug!(error = %error, "cannot listen for notices of the database yet");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_LONGEST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_survives_the_wire_and_unknown_ones_are_passed_over() {
        let blue = Notice::Cluster(ClusterName::new("blue").unwrap());
        for notice in [Notice::Policies, Notice::Status, Notice::Shifts, blue] {
            assert_eq!(Notice::parse(&notice.payload()), Some(notice));
        }
        assert_eq!(Notice::parse("shift:1"), None);
        assert_eq!(Notice::parse("cluster:Not A Name"), None);
    }
}
