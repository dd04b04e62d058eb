//! The part of the command line that says how agent and hub know each other, and the one place where that is judged together.
//!
//! No secret is ever an argument: whoever may list processes reads those.

use std::path::PathBuf;

use thiserror::Error;

use super::gates::{self, GateArgsError};
use crate::identity::values::JoinToken;

/// The variable that may hold a join token. A file is better: it can be taken away from a process.
pub const JOIN_TOKEN: &str = "SWITCHYARD_AGENT_JOIN_TOKEN";

/// Certificates, and how the agent gets its own.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Identity")]
pub struct IdentityArgs {
    /// PEM file with the authorities that the hub's certificate may come from. It is read again when it changes.
    #[arg(long, env = "SWITCHYARD_AGENT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// PEM file with this agent's certificate, where something else renews it. It is read again when it changes.
    #[arg(long, env = "SWITCHYARD_AGENT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the key of that certificate.
    #[arg(long, env = "SWITCHYARD_AGENT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// File with the join token that `yardctl cluster join` prints, for the first certificate. It may go when that is there.
    /// SWITCHYARD_AGENT_JOIN_TOKEN may hold the token itself instead.
    #[arg(long, env = "SWITCHYARD_AGENT_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,

    /// File with a projected token of the agent's ServiceAccount, for the first certificate and after one was lost.
    #[arg(long, env = "SWITCHYARD_AGENT_SERVICE_ACCOUNT_TOKEN_FILE", value_name = "FILE")]
    pub service_account_token_file: Option<PathBuf>,

    /// Secret that the agent keeps its key and certificate in. It has to exist. Without a namespace: the agent's own.
    #[arg(long, env = "SWITCHYARD_AGENT_IDENTITY_SECRET", value_name = "[NAMESPACE/]NAME")]
    pub identity_secret: Option<String>,

    /// Folder that the agent keeps its key and certificate in, where it does not run in Kubernetes.
    #[arg(long, env = "SWITCHYARD_AGENT_IDENTITY_DIR", value_name = "FOLDER")]
    pub identity_dir: Option<PathBuf>,
}

/// What the arguments come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySettings {
    /// The file of the hub's authorities.
    pub authorities: PathBuf,
    /// Where the certificate comes from.
    pub origin: OriginSettings,
}

/// Where this agent's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginSettings {
    /// Nowhere; only with --dev.
    Nobody,
    /// From files that somebody else renews.
    Files {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// From the hub.
    Hub {
        /// The file of a join token.
        join_token_file: Option<PathBuf>,
        /// A join token.
        join_token: Option<JoinToken>,
        /// The file of the ServiceAccount's token.
        account_token_file: Option<PathBuf>,
        /// Where it is kept.
        keep: Keep,
    },
}

/// Where an identity is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// In this Secret.
    Secret {
        /// None: the agent's own.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// In this folder.
    Folder(PathBuf),
}

/// Arguments that cannot be used together, or at all.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdentityArgsError {
    /// No authority.
    #[error("--tls-ca is missing; name the PEM file of the authority that signed the hub's certificate")]
    NoAuthority,
    /// No way to prove who this is.
    #[error(
        "this agent has no way to prove who it is; give --join-token-file (from `yardctl cluster join`) or --service-account-token-file, or --tls-cert and --tls-key (--dev goes without)"
    )]
    NoIdentity,
    /// Two ways.
    #[error(
        "--tls-cert names a certificate that somebody else renews, and a join token or --service-account-token-file asks the hub for one; give only one of the two"
    )]
    TwoIdentities,
    /// Two join tokens.
    #[error("both --join-token-file and {JOIN_TOKEN} are given; give only one of them")]
    TwoTokens,
    /// Not a token. The value is not shown: it is a secret.
    #[error("{JOIN_TOKEN} holds no join token; put in what `yardctl cluster join` prints, which begins with syj_")]
    Token,
    /// Nowhere to keep it, or two places.
    #[error(
        "the agent needs one place to keep the key and certificate that it gets; give either --identity-secret (in Kubernetes) or --identity-dir"
    )]
    Keep,
    /// A place without a use.
    #[error(
        "--identity-secret and --identity-dir are for a certificate that the hub issues; give a join token or --service-account-token-file as well, or leave them out"
    )]
    KeepWithoutUse,
    /// Not a name that Kubernetes allows.
    #[error(transparent)]
    Name(#[from] GateArgsError),
}

impl IdentityArgs {
    /// What the arguments come to. `variable` looks environment variables up.
    ///
    /// # Errors
    /// Names the flags and the remedy.
    pub fn settings(
        &self,
        dev: bool,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<IdentitySettings, IdentityArgsError> {
        let token = variable(JOIN_TOKEN).filter(|text| !text.trim().is_empty());
        let wants_hub = self.join_token_file.is_some() || token.is_some() || self.service_account_token_file.is_some();
        let keeps = self.identity_secret.is_some() || self.identity_dir.is_some();
        let origin = match (&self.tls_cert, &self.tls_key) {
            (Some(_), Some(_)) if wants_hub => return Err(IdentityArgsError::TwoIdentities),
            (Some(_), Some(_)) if keeps => return Err(IdentityArgsError::KeepWithoutUse),
            (Some(certificate), Some(key)) => {
                OriginSettings::Files { certificate: certificate.clone(), key: key.clone() }
            }
            _ if wants_hub => self.hub(token)?,
            _ if keeps => return Err(IdentityArgsError::KeepWithoutUse),
            _ if dev => OriginSettings::Nobody,
            _ => return Err(IdentityArgsError::NoIdentity),
        };
        let authorities = self.tls_ca.clone().ok_or(IdentityArgsError::NoAuthority)?;
        Ok(IdentitySettings { authorities, origin })
    }

    fn hub(&self, token: Option<String>) -> Result<OriginSettings, IdentityArgsError> {
        if token.is_some() && self.join_token_file.is_some() {
            return Err(IdentityArgsError::TwoTokens);
        }
        let join_token = token.map(|text| JoinToken::parse(&text).ok_or(IdentityArgsError::Token)).transpose()?;
        let keep = match (&self.identity_secret, &self.identity_dir) {
            (Some(secret), None) => keep_in_secret(secret)?,
            (None, Some(folder)) => Keep::Folder(folder.clone()),
            (None, None) | (Some(_), Some(_)) => return Err(IdentityArgsError::Keep),
        };
        Ok(OriginSettings::Hub {
            join_token_file: self.join_token_file.clone(),
            join_token,
            account_token_file: self.service_account_token_file.clone(),
            keep,
        })
    }
}

fn keep_in_secret(value: &str) -> Result<Keep, GateArgsError> {
    const FLAG: &str = "identity-secret";
    if value.contains('/') {
        let gates::ObjectName { namespace, name } = gates::object(FLAG, value)?;
        return Ok(Keep::Secret { namespace: Some(namespace), name });
    }
    Ok(Keep::Secret { namespace: None, name: gates::check_name(FLAG, value)?.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const TOKEN: &str = "syj_abcdefghij23_Zm9vYmFyX2Jhei1xdXV4X3NlY3JldF9zZWNyZXRfMTI";

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        identity: IdentityArgs,
    }

    fn settings(line: &str, token: Option<&str>) -> Result<IdentitySettings, IdentityArgsError> {
        let words = std::iter::once("agent").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).expect("arguments");
        line.identity.settings(false, |name| token.filter(|_| name == JOIN_TOKEN).map(str::to_owned))
    }

    #[test]
    fn the_certificate_comes_from_exactly_one_place() {
        let files = settings("--tls-ca=ca --tls-cert=a --tls-key=b", None).expect("settings").origin;
        assert_eq!(files, OriginSettings::Files { certificate: "a".into(), key: "b".into() });
        let hub =
            settings("--tls-ca=ca --join-token-file=t --service-account-token-file=s --identity-secret=sys/id", None);
        let OriginSettings::Hub { join_token_file, account_token_file, keep, .. } = hub.expect("settings").origin
        else {
            panic!("not from the hub")
        };
        assert_eq!((join_token_file, account_token_file), (Some("t".into()), Some("s".into())));
        assert_eq!(keep, Keep::Secret { namespace: Some("sys".to_owned()), name: "id".to_owned() });

        assert_eq!(settings("--tls-ca=ca", None), Err(IdentityArgsError::NoIdentity));
        let both = "--tls-ca=ca --tls-cert=a --tls-key=b --join-token-file=t";
        assert_eq!(settings(both, None), Err(IdentityArgsError::TwoIdentities));
        assert_eq!(
            settings("--tls-ca=ca --tls-cert=a --tls-key=b", Some(TOKEN)),
            Err(IdentityArgsError::TwoIdentities)
        );
        let unused = "--tls-ca=ca --tls-cert=a --tls-key=b --identity-dir=d";
        assert_eq!(settings(unused, None), Err(IdentityArgsError::KeepWithoutUse));
        assert_eq!(settings("--tls-cert=a --tls-key=b", None), Err(IdentityArgsError::NoAuthority));
        assert!(Line::try_parse_from(["agent", "--tls-cert=a"]).is_err(), "a certificate without its key");
    }

    #[test]
    fn what_the_hub_issues_is_kept_in_exactly_one_place() {
        let with = |more: &str| settings(&format!("--tls-ca=ca --join-token-file=t {more}"), None);
        assert_eq!(with(""), Err(IdentityArgsError::Keep));
        assert_eq!(with("--identity-secret=id --identity-dir=d"), Err(IdentityArgsError::Keep));
        let own = with("--identity-secret=id").expect("settings").origin;
        assert!(
            matches!(own, OriginSettings::Hub { keep: Keep::Secret { namespace: None, .. }, .. }),
            "in the agent's own namespace: {own:?}"
        );
        let message = with("--identity-secret=sys/../x").expect_err("a refusal").to_string();
        assert!(message.starts_with("--identity-secret \"../x\" is not a name of Kubernetes"), "{message}");
    }

    #[test]
    fn a_join_token_comes_by_a_variable_or_a_file_is_no_argument_and_is_never_shown() {
        let given = settings("--tls-ca=ca --identity-dir=d", Some(TOKEN)).expect("settings");
        let shown = format!("{given:?}");
        assert!(shown.contains("syj_abcdefghij23_..") && !shown.contains("Zm9v"), "{shown}");
        let both = settings("--tls-ca=ca --identity-dir=d --join-token-file=t", Some(TOKEN));
        assert_eq!(both, Err(IdentityArgsError::TwoTokens));
        let wrong = settings("--tls-ca=ca --identity-dir=d", Some("hunter2")).expect_err("a refusal");
        assert_eq!(wrong, IdentityArgsError::Token);
        assert!(!wrong.to_string().contains("hunter2"));
        assert!(Line::try_parse_from(["agent", "--join-token=x"]).is_err());
    }

    #[test]
    fn development_goes_without_a_certificate_but_not_without_the_hubs_authority() {
        let with = |line: &str| {
            let words = std::iter::once("agent").chain(line.split_whitespace());
            Line::try_parse_from(words).expect("arguments").identity.settings(true, |_| None)
        };
        assert_eq!(with("--tls-ca=ca").expect("settings").origin, OriginSettings::Nobody);
        assert_eq!(with(""), Err(IdentityArgsError::NoAuthority));
    }
}
