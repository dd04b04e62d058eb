//! The composition of the agent's identity: what it shows at the start, and the task that keeps it.

use anyhow::Context;
use tracing::warn;

use crate::{
    args::{
        Args,
        gates::ObjectName,
        identity::{IdentitySettings, Keep, OriginSettings},
    },
    identity::{
        driver::{Driver, FromHub, Origin, TokenPlace},
        enrollment::Enrollment,
        files,
        present::{Credentials, Presented, Source},
        store::Store,
    },
    link::{
        messages::Identity,
        transport::{Dialer, Target},
    },
    watch::secret::Secrets,
};
use crate::{complaints::Complaints, metrics::Metrics};

/// How the agent shows itself at the start.
pub struct Start {
    /// For the dialer.
    pub target: Target,
    /// What is kept up to date; none for plain text.
    pub kept: Option<(IdentitySettings, Source)>,
}

/// Reads what the arguments name. What cannot be used is said now, and not at the first dial.
///
/// # Errors
/// Names the flag and the file.
pub fn start(args: &Args) -> anyhow::Result<Start> {
    // A variable that is not text is as good as none: the token would be none either.
    let Some(settings) = args.settings(|name| std::env::var(name).ok())? else {
        warn!(
            hub = args.hub,
            "DEVELOPMENT MODE: nobody proves who he is, and everybody on this machine can listen in; never use --dev in production"
        );
        return Ok(Start { target: Target { url: args.hub.clone(), tls: None }, kept: None });
    };
    let presented = match &settings.origin {
        OriginSettings::Nobody => {
            warn!(
                hub = args.hub,
                "DEVELOPMENT MODE: this agent does not prove who it is; never use --dev in production"
            );
            Presented::Nobody
        }
        OriginSettings::Files { certificate, key } => {
            Presented::With(files::identity(certificate, key, &args.cluster)?.into())
        }
        OriginSettings::Hub { .. } => Presented::NotYet("the first certificate is on its way".to_owned()),
    };
    let authorities = files::authorities(&settings.authorities)?;
    let (source, credentials) = Credentials::new(&authorities, presented);
    Ok(Start { target: Target { url: args.hub.clone(), tls: Some(credentials) }, kept: Some((settings, source)) })
}

/// What the keeper of the identity shares with the rest of the agent.
pub struct Parts<'a> {
    pub identity: &'a Identity,
    pub client: &'a kube::Client,
    pub dialer: &'a Dialer,
    pub metrics: &'a Metrics,
    pub complaints: &'a Complaints,
}

/// The task that keeps the identity.
///
/// # Errors
/// When the agent's own namespace is not known.
pub fn driver(settings: IdentitySettings, source: Source, parts: &Parts<'_>) -> anyhow::Result<Driver> {
    let origin = match settings.origin {
        OriginSettings::Nobody => Origin::Nobody,
        OriginSettings::Files { certificate, key } => Origin::Files { certificate, key },
        OriginSettings::Hub { join_token_file, join_token, account_token_file, keep } => {
            let join_token = match (join_token_file, join_token) {
                (Some(path), _) => TokenPlace::File(path),
                (None, Some(token)) => TokenPlace::Given(token),
                (None, None) => TokenPlace::None,
            };
            Origin::Hub(Box::new(FromHub {
                enrollment: Enrollment {
                    dialer: parts.dialer.clone(),
                    cluster: parts.identity.cluster.clone(),
                    instance_id: parts.identity.instance_id.clone(),
                },
                store: store(keep, parts.client)?,
                join_token,
                account_token: account_token_file,
            }))
        }
    };
    Ok(Driver {
        cluster: parts.identity.cluster.clone(),
        origin,
        authorities: settings.authorities,
        source,
        metrics: parts.metrics.clone(),
        complaints: parts.complaints.clone(),
    })
}

fn store(keep: Keep, client: &kube::Client) -> anyhow::Result<Store> {
    Ok(match keep {
        Keep::Folder(folder) => Store::Folder(folder),
        Keep::Secret { namespace, name } => {
            let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
            let known = Some(namespace).filter(|namespace| !namespace.is_empty());
            let namespace = known.with_context(|| {
                format!("--identity-secret {name}: the agent's own namespace is not known; give NAMESPACE/{name}")
            })?;
            Store::Secret(Secrets::new(client.clone(), "--identity-secret"), ObjectName { namespace, name })
        }
    })
}
