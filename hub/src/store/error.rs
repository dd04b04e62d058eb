//! What can go wrong with the store, told apart by what the caller should do: wait and retry, or report a defect. Every
//! statement has a name here, for error context and as a metric label.

use std::{fmt, time::Duration};

use switchyard_core::ids::HubId;

macro_rules! queries {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)*) => {
        /// The name of a statement or of a step of a transaction; a fixed set, so that it may label a metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Query {
            $($(#[$doc])* $variant,)*
        }

        impl Query {
            /// All of them.
            pub const ALL: &'static [Query] = &[$(Query::$variant,)*];

            /// The stable label, in snake case.
            pub fn label(self) -> &'static str {
                match self {
                    $(Query::$variant => $label,)*
                }
            }
        }
    };
}

queries! {
    /// Opening a connection outside the pool.
    Connect = "connect",
    /// Running the migrations.
    Migrate = "migrate",
    /// Opening a transaction, which includes getting a connection.
    Begin = "begin",
    /// Giving one up.
    Rollback = "rollback",
    /// Committing one.
    Commit = "commit",
    /// Does the database answer?
    Ping = "ping",
    /// Reading the database's clock.
    Now = "now",
    /// Reading or writing the installation's id.
    HubId = "hub_id",
    /// Subscribing to notifications.
    Listen = "listen",
    /// Sending one.
    Notify = "notify",
    /// Taking or renewing a lease.
    LeaseAcquire = "lease_acquire",
    /// Giving it up.
    LeaseRelease = "lease_release",
    /// Reading it.
    LeaseCurrent = "lease_current",
    /// Lifting its epoch.
    LeaseRaise = "lease_raise",
    /// Checking within a transaction that its writer still holds the lease.
    LeaseFence = "lease_fence",
    /// Recording a step before its call.
    IntentOpen = "intent_open",
    /// Recording what came of it.
    IntentClose = "intent_close",
    /// Reading those without an outcome.
    IntentsOpen = "intents_open",
    /// Looking for the first answer to a request id.
    IdempotencyGet = "idempotency_get",
    /// Keeping the first answer.
    IdempotencyPut = "idempotency_put",
    /// Writing an audit row.
    AuditInsert = "audit_insert",
    /// Reading audit rows.
    AuditList = "audit_list",
    /// Reading the newest link of the audit log.
    AuditHead = "audit_head",
    /// Reading or raising the number of changes of access.
    AccessVersion = "access_version",
    /// Keeping the issue of certificates and their revocation apart.
    AccessLock = "access_lock",
    /// Reading what replicas keep in memory about access.
    AccessBook = "access_book",
    /// Reading join tokens.
    JoinTokensGet = "join_tokens_get",
    /// Writing one.
    JoinTokenWrite = "join_token_write",
    /// Reading agents' certificates.
    CertificatesGet = "certificates_get",
    /// Writing one, or revoking some.
    CertificateWrite = "certificate_write",
    /// Reading service tokens.
    ServiceTokensGet = "service_tokens_get",
    /// Writing one.
    ServiceTokenWrite = "service_token_write",
    /// Noting that some were used.
    ServiceTokenUsed = "service_token_used",
    /// Reading authorities.
    AuthoritiesGet = "authorities_get",
    /// Writing one.
    AuthorityWrite = "authority_write",
    /// Taking the next change number of the policies.
    PolicyChange = "policy_change",
    /// Reading one policy.
    PolicyGet = "policy_get",
    /// Reading all.
    PoliciesAll = "policies_all",
    /// Writing a new one.
    PolicyInsert = "policy_insert",
    /// Changing one.
    PolicyUpdate = "policy_update",
    /// Writing or clearing an override of weights.
    PolicyOverride = "policy_override",
    /// Removing one for good.
    PolicyForget = "policy_forget",
    /// Comparing statuses before writing them.
    PolicyStatusGet = "policy_status_get",
    /// Writing statuses.
    PolicyStatusSave = "policy_status_save",
    /// The health of gated targets.
    PolicyGatesSave = "policy_gates_save",
    /// Writing who owns a policy.
    PolicyOwner = "policy_owner",
    /// Opening a cluster's stream of policies.
    SourceOpen = "source_open",
    /// Checking that the stream still is the cluster's.
    SourceFence = "source_fence",
    /// Noting a list, or that resources cannot be seen.
    SourceNote = "source_note",
    /// Reading resources that ask for policies.
    ClaimsGet = "claims_get",
    /// Writing them.
    ClaimsWrite = "claims_write",
    /// Removing them.
    ClaimsDelete = "claims_delete",
    /// Opening an agent's session.
    SessionOpen = "session_open",
    /// Reading which agent process holds a cluster.
    SessionTurn = "session_turn",
    /// Counting the endpoints of a cluster.
    SessionEndpoints = "session_endpoints",
    /// Locking the cluster and checking that the session still holds it.
    SessionFence = "session_fence",
    /// Reading why a fence refused.
    SessionOwner = "session_owner",
    /// Noting that an agent is live.
    SessionLive = "session_live",
    /// Noting which sources fail.
    SessionSources = "session_sources",
    /// Noting heartbeats.
    SessionHeartbeat = "session_heartbeat",
    /// Closing a session.
    SessionClose = "session_close",
    /// Writing Services.
    ServicesUpsert = "services_upsert",
    /// Writing endpoints.
    EndpointsUpsert = "endpoints_upsert",
    /// Marking endpoints as gone.
    EndpointsGone = "endpoints_gone",
    /// Reading which endpoints a snapshot may sweep.
    EndpointsPresent = "endpoints_present",
    /// Forgetting what is no longer watched.
    InventoryForget = "inventory_forget",
    /// The mirror: what moved?
    MirrorHeads = "mirror_heads",
    /// The mirror: policies.
    MirrorPolicies = "mirror_policies",
    /// The mirror: resources that ask for policies.
    MirrorClaims = "mirror_claims",
    /// The mirror: Services.
    MirrorServices = "mirror_services",
    /// The mirror: endpoints.
    MirrorEndpoints = "mirror_endpoints",
    /// The mirror: a view of policies and shifts of one moment.
    MirrorSnapshot = "mirror_snapshot",
    /// The mirror: shifts.
    MirrorShifts = "mirror_shifts",
    /// The mirror: what operators want of clusters.
    MirrorFleet = "mirror_fleet",
    /// Reading what operators want of one cluster.
    FleetGet = "fleet_get",
    /// Writing it.
    FleetWrite = "fleet_write",
    /// A part of a transaction that may be given up alone.
    Savepoint = "savepoint",
    /// Reading one shift.
    ShiftGet = "shift_get",
    /// Reading a page of them.
    ShiftsList = "shifts_list",
    /// Writing a new one.
    ShiftInsert = "shift_insert",
    /// Changing one.
    ShiftUpdate = "shift_update",
    /// The memory of resources that ask for shifts.
    ShiftResources = "shift_resources",
    /// Reading gating switches.
    SwitchesAll = "switches_all",
    /// Writing or removing one.
    SwitchWrite = "switch_write",
    /// Removing what is past its time.
    Purge = "purge",
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Told of every statement; for metrics. Must not block.
pub trait QueryObserver: Send + Sync {
    /// A statement ended. `outcome` is `ok`, `unavailable` or `broken`.
    fn observed(&self, query: Query, took: Duration, outcome: &'static str);
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or cannot serve now. Nothing is known of a commit that was under way; retry the same
    /// thing (every write here may be repeated).
    #[error("the database is not available ({query})")]
    Unavailable {
        /// At which statement.
        query: Query,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The database refused or answered something that this program does not understand: a defect, or a damaged row.
    #[error("the database refused or misunderstood a statement ({query})")]
    Broken {
        /// At which statement.
        query: Query,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// Other lists are being read, and two at a time are allowed. Ask again in a moment.
    #[error("as many lists are being read as may be at a time ({query})")]
    ListsBusy {
        /// Which one was asked for.
        query: Query,
    },
    /// A list that would read too far. The same question gets the same answer; a narrower one may not.
    #[error("the list took longer than {limit:?} ({query})")]
    ListTooLong {
        /// Which one.
        query: Query,
        /// What it may take.
        limit: Duration,
    },
    /// A row whose content this version cannot read; a newer version may have written it.
    #[error(
        "{what} is stored in a form that this version cannot read: {detail}; run the version that wrote it, or a newer one"
    )]
    Unreadable {
        /// Which row.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The configured hub id is not the one that is stored.
    #[error(
        "the configured hub id {configured} differs from the stored hub id {stored}; remove the setting, or point the hub at the database of {configured}"
    )]
    HubIdDiffers {
        /// From the configuration.
        configured: HubId,
        /// From the database.
        stored: HubId,
    },
    /// The connection URL cannot be used.
    #[error("the database URL cannot be used: {problem}; give postgres://user:password@host:port/database")]
    Url {
        /// Without the URL itself, which may hold a password.
        problem: String,
    },
    /// A migration cannot be run.
    #[error("the database's schema cannot be brought up to date")]
    Migration {
        /// The cause.
        #[source]
        source: Box<sqlx::migrate::MigrateError>,
    },
}

impl StoreError {
    /// Sorts an error of the driver.
    pub(super) fn new(query: Query, source: sqlx::Error) -> Self {
        if unavailable(&source) {
            StoreError::Unavailable { query, source }
        } else {
            StoreError::Broken { query, source }
        }
    }

    /// True when the same call may succeed later without anybody changing anything.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }

    /// True when the server was reached and its connection could not be verified: no TLS there, another name, an unknown authority.
    pub fn is_of_tls(&self) -> bool {
        match self {
            StoreError::Unavailable { source: sqlx::Error::Tls(_), .. } => true,
            // What the handshake itself finds comes as trouble of reading.
            StoreError::Unavailable { source: sqlx::Error::Io(error), .. } => {
                error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
            }
            _ => false,
        }
    }

    /// A stable word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            StoreError::Unavailable { .. } => "unavailable",
            StoreError::Broken { .. } => "broken",
            StoreError::ListsBusy { .. } => "lists_busy",
            StoreError::ListTooLong { .. } => "list_too_long",
            StoreError::Unreadable { .. } => "unreadable",
            StoreError::HubIdDiffers { .. } => "hub_id_differs",
            StoreError::Url { .. } => "url",
            StoreError::Migration { .. } => "migration",
        }
    }
}

/// SQLSTATE classes and codes (PostgreSQL, appendix A) that say "not now" rather than "never".
fn unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::BeginFailed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // 08 connection, 40 rolled back (deadlock), 53 out of resources, 57 operator intervention (also the statement
            // timeout, 57014), 58 system error, 25006 read-only (a failover's old primary), 55P03 lock not available.
            ["08", "40", "53", "57", "58"].contains(&code.get(..2).unwrap_or_default())
                || ["25006", "25P03", "55P03"].contains(&code.as_ref())
        }),
        sqlx::Error::Migrate(error) => match error.as_ref() {
            sqlx::migrate::MigrateError::Execute(error) => unavailable(error),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_query_has_its_own_label() {
        let labels: BTreeSet<&str> = Query::ALL.iter().map(|query| query.label()).collect();
        assert_eq!(labels.len(), Query::ALL.len());
    }

    #[test]
    fn a_lost_connection_is_unavailable_and_a_missing_column_is_a_defect() {
        let lost = StoreError::new(Query::Ping, sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
        assert!(lost.is_unavailable());
        assert_eq!(lost.to_string(), "the database is not available (ping)");
        let defect = StoreError::new(Query::Ping, sqlx::Error::ColumnNotFound("x".into()));
        assert!(!defect.is_unavailable());
        assert_eq!(defect.label(), "broken");
    }
}
