//! The part of the command line that speaks of readiness gates and their webhook, and the one place where these are judged together.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use thiserror::Error;

/// Readiness gates, off by default.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Readiness gates")]
pub struct GateArgs {
    /// Sets the conditions `target-health.switchyard.dev/<policy>` of pods that carry them as readiness gates.
    #[arg(long, env = "SWITCHYARD_AGENT_READINESS_GATES")]
    pub readiness_gates: bool,

    /// Seconds after which a gate opens by itself when nobody judges its pod: the hub is away, or the policy is suspended.
    #[arg(
        long,
        env = "SWITCHYARD_AGENT_GATE_RELEASE_AFTER",
        default_value_t = 300,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub gate_release_after: u32,

    /// Namespaces to search for gates whose policy is gone, separated by commas. Left out: all.
    #[arg(long, env = "SWITCHYARD_AGENT_GATE_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACES")]
    pub gate_namespaces: Vec<String>,

    /// Where the webhook that adds gates to new pods is served over HTTPS, such as 0.0.0.0:9443. Left out: no webhook.
    #[arg(long, env = "SWITCHYARD_AGENT_WEBHOOK_LISTEN", value_name = "ADDRESS")]
    pub webhook_listen: Option<SocketAddr>,

    /// Service of the webhook, whose DNS name its certificate is for.
    #[arg(long, env = "SWITCHYARD_AGENT_WEBHOOK_SERVICE", value_name = "NAMESPACE/NAME")]
    pub webhook_service: Option<String>,

    /// Secret that holds the webhook's own certificate. It has to exist; the agent fills and renews it.
    #[arg(long, env = "SWITCHYARD_AGENT_WEBHOOK_SECRET", value_name = "NAMESPACE/NAME")]
    pub webhook_secret: Option<String>,

    /// MutatingWebhookConfiguration that is told which authority to trust.
    #[arg(long, env = "SWITCHYARD_AGENT_WEBHOOK_CONFIGURATION", value_name = "NAME")]
    pub webhook_configuration: Option<String>,

    /// PEM file with the webhook's certificate, where something else makes it. It is read again when it changes.
    #[arg(long, env = "SWITCHYARD_AGENT_WEBHOOK_TLS_CERT", value_name = "FILE")]
    pub webhook_tls_cert: Option<PathBuf>,

    /// PEM file with the key of that certificate.
    #[arg(long, env = "SWITCHYARD_AGENT_WEBHOOK_TLS_KEY", value_name = "FILE")]
    pub webhook_tls_key: Option<PathBuf>,
}

/// What the arguments come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateSettings {
    /// How long nobody may judge a pod.
    pub release_after: Duration,
    /// Where to look for forgotten gates; everywhere when empty.
    pub namespaces: Vec<String>,
    /// The webhook, if it is wanted.
    pub webhook: Option<WebhookSettings>,
}

/// The webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where it is served.
    pub listen: SocketAddr,
    /// Where its certificate comes from.
    pub certificate: CertificateSource,
}

/// Where the webhook's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// The agent makes and renews it.
    Own {
        /// The webhook's Service.
        service: ObjectName,
        /// The Secret that holds it.
        secret: ObjectName,
        /// The MutatingWebhookConfiguration.
        configuration: String,
    },
    /// Somebody else does.
    Files {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// An object in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Arguments that cannot be used together, or at all.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GateArgsError {
    /// A webhook without gates.
    #[error(
        "--webhook-listen is set without --readiness-gates, so nobody would ever open the gates; set both or neither"
    )]
    WebhookWithoutGates,
    /// Neither kind of certificate, or both.
    #[error(
        "the webhook needs a certificate: give --webhook-service, --webhook-secret and --webhook-configuration, or --webhook-tls-cert and --webhook-tls-key, and not both"
    )]
    Certificate,
    /// Not NAMESPACE/NAME.
    #[error("--{flag} {value:?} is not NAMESPACE/NAME; give one such as switchyard/agent-webhook")]
    Name {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        value: String,
    },
    /// Not a name that Kubernetes allows.
    #[error("--{flag} {value:?} is not a name of Kubernetes; use lower-case letters, digits, dashes and dots")]
    Object {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        value: String,
    },
}

impl GateArgs {
    /// What the arguments come to; None when gates are off.
    ///
    /// # Errors
    /// Names the flags and the remedy.
    pub fn settings(&self) -> Result<Option<GateSettings>, GateArgsError> {
        if !self.readiness_gates {
            return if self.webhook_listen.is_some() { Err(GateArgsError::WebhookWithoutGates) } else { Ok(None) };
        }
        let namespaces: Vec<String> = self.gate_namespaces.iter().filter(|name| !name.is_empty()).cloned().collect();
        for namespace in &namespaces {
            check_name("gate-namespaces", namespace)?;
        }
        let webhook = match self.webhook_listen {
            None => None,
            Some(listen) => Some(WebhookSettings { listen, certificate: self.certificate()? }),
        };
        let release_after = Duration::from_secs(u64::from(self.gate_release_after));
        Ok(Some(GateSettings { release_after, namespaces, webhook }))
    }

    fn certificate(&self) -> Result<CertificateSource, GateArgsError> {
        let own = (&self.webhook_service, &self.webhook_secret, &self.webhook_configuration);
        match (own, (&self.webhook_tls_cert, &self.webhook_tls_key)) {
            ((Some(service), Some(secret), Some(configuration)), (None, None)) => Ok(CertificateSource::Own {
                service: object("webhook-service", service)?,
                secret: object("webhook-secret", secret)?,
                configuration: check_name("webhook-configuration", configuration)?.to_owned(),
            }),
            ((None, None, None), (Some(certificate), Some(key))) => {
                Ok(CertificateSource::Files { certificate: certificate.clone(), key: key.clone() })
            }
            _ => Err(GateArgsError::Certificate),
        }
    }
}

pub(super) fn object(flag: &'static str, value: &str) -> Result<ObjectName, GateArgsError> {
    let (namespace, name) =
        value.split_once('/').ok_or_else(|| GateArgsError::Name { flag, value: value.to_owned() })?;
    check_name(flag, namespace)?;
    check_name(flag, name)?;
    Ok(ObjectName { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Names go into request paths, so only what Kubernetes allows may pass.
pub(super) fn check_name<'a>(flag: &'static str, name: &'a str) -> Result<&'a str, GateArgsError> {
    let is_name = (1..=253).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.']);
    if is_name { Ok(name) } else { Err(GateArgsError::Object { flag, value: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        gates: GateArgs,
    }

    fn settings(line: &str) -> Result<Option<GateSettings>, GateArgsError> {
        let words = std::iter::once("agent").chain(line.split_whitespace());
        Line::try_parse_from(words).expect("arguments").gates.settings()
    }

    const OWN: &str = "--webhook-service=sys/hook --webhook-secret=sys/cert --webhook-configuration=hook.sys";

    #[test]
    fn gates_are_off_unless_they_are_asked_for() {
        assert_eq!(settings(""), Ok(None));
        let on = settings("--readiness-gates --gate-namespaces=shop,pay --gate-release-after=60").expect("settings");
        let expected = GateSettings {
            release_after: Duration::from_secs(60),
            namespaces: vec!["shop".to_owned(), "pay".to_owned()],
            webhook: None,
        };
        assert_eq!(on, Some(expected));
        assert_eq!(settings("--webhook-listen=0.0.0.0:9443"), Err(GateArgsError::WebhookWithoutGates));
        assert!(Line::try_parse_from(["agent", "--gate-release-after=0"]).is_err());
    }

    #[test]
    fn the_webhook_takes_its_certificate_from_one_place() {
        let hook = "--readiness-gates --webhook-listen=0.0.0.0:9443";
        let certificate = |more: &str| settings(&format!("{hook} {more}")).map(|on| on.and_then(|on| on.webhook));
        let own = certificate(OWN).expect("settings").expect("a webhook").certificate;
        assert!(matches!(own, CertificateSource::Own { ref service, .. } if service.name == "hook"), "{own:?}");
        let files = certificate("--webhook-tls-cert=a --webhook-tls-key=b").expect("settings").expect("a webhook");
        assert!(matches!(files.certificate, CertificateSource::Files { .. }));
        for wrong in ["", "--webhook-tls-cert=a", "--webhook-service=sys/hook", &format!("{OWN} --webhook-tls-cert=a")]
        {
            assert_eq!(certificate(wrong), Err(GateArgsError::Certificate), "{wrong}");
        }
    }

    #[test]
    fn names_that_would_not_fit_into_a_path_are_refused_with_the_remedy() {
        let hook = "--readiness-gates --webhook-listen=0.0.0.0:9443";
        let with = |secret: &str| {
            let line = format!("{hook} --webhook-service=sys/hook --webhook-secret={secret} --webhook-configuration=h");
            settings(&line).expect_err("a refusal").to_string()
        };
        assert!(with("cert").contains("is not NAMESPACE/NAME; give one such as"), "{}", with("cert"));
        assert!(with("sys/../x").contains("is not a name of Kubernetes"), "{}", with("sys/../x"));
        let namespace = settings("--readiness-gates --gate-namespaces=Shop").expect_err("a refusal").to_string();
        assert!(namespace.starts_with("--gate-namespaces \"Shop\" is not a name"), "{namespace}");
    }
}
