//! Notes the certificate that an agent opens its session with, when the hub did not issue it itself: only what is noted can be listed,
//! revoked, and keeps its authority trusted. Nothing that is found here refuses a session: who may speak for a cluster was decided
//! before. Tests: `hub/tests/grpc_enrollment.rs`.

use tokio::time::{Instant, sleep};

use super::{AgentParts, end::End, session::OPEN_PAUSE};
use crate::{
    access::Access,
    store::{
        AgentHello,
        access::certificates::{Asking, Seen, Shown},
    },
};

/// Tries until the store answers, or the time to open the session is over: a session may last for weeks.
pub(super) async fn note(
    parts: &AgentParts,
    access: &Access,
    agent: &AgentHello,
    shown: &Shown,
    deadline: Instant,
) -> Result<(), End> {
    let (cluster, serial) = (&agent.cluster, shown.serial.as_str());
    let (actor, source, instance) =
        (access.identity().to_string(), access.source(), agent.agent_instance_id.to_string());
    let asking = Asking { actor: &actor, source: &source };
    let seen = loop {
        match parts.store.certificate_seen(&asking, cluster, &instance, shown).await {
            Ok(seen) => break seen,
            Err(error) if error.is_unavailable() && Instant::now() + OPEN_PAUSE < deadline => sleep(OPEN_PAUSE).await,
            Err(error) => return Err(End::Store(error)),
        }
    };
    let authority = shown.authority.as_str();
    let why = match seen {
        Seen::Known => return Ok(()),
        Seen::Noted => {
            tracing::info!(%cluster, serial, authority, source, "an agent's certificate that was not issued here was noted");
            return Ok(());
        }
        Seen::Another => "another certificate has its serial number; an authority must give each number once",
        Seen::Replaced => "its authority was replaced",
        Seen::TooMany => "the cluster had too many certificates within an hour",
    };
    if parts.said.is_news(format!("{cluster}: {serial}: {why}")) {
        tracing::warn!(
            %cluster, serial, authority, source, why,
            "the certificate of an agent was not issued here and is not noted; to take it back name its serial number"
        );
    }
    Ok(())
}
