//! Secrets that the agent keeps something of its own in: they exist already, and are replaced only as they were read.

use std::{fmt, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use thiserror::Error;

use crate::{args::gates::ObjectName, webhook::certificate::Data};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an object cannot be read or written.
#[derive(Debug, Error)]
pub enum ObjectsError {
    /// It is not there.
    #[error("{kind} {name} does not exist; the chart makes it, or correct {flag}")]
    Missing {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The flag that names it.
        flag: &'static str,
    },
    /// The API server says no.
    #[error("{kind} {name}: grant the agent the verb {verb} on it")]
    Forbidden {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is not allowed.
        verb: &'static str,
        /// The server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nothing came back.
    #[error("no answer for {kind} {name} within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Something else.
    #[error("cannot {verb} {kind} {name}")]
    Failed {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What was tried.
        verb: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A Secret's data, and which state of it this is.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// All of its keys.
    pub data: Data,
    /// Its resourceVersion.
    pub version: String,
}

impl fmt::Debug for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A Secret's data must never reach a log.
        formatter.debug_struct("Stored").field("version", &self.version).finish_non_exhaustive()
    }
}

/// One object and how it is spoken of.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) flag: &'static str,
}

impl Named {
    pub(super) async fn ask<T>(
        &self,
        verb: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ObjectsError> {
        let Self { kind, name, flag } = self.clone();
        match tokio::time::timeout(TIMEOUT, request).await {
            Err(_) => Err(ObjectsError::Timeout { kind, name }),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
                let source = Box::new(error);
                Err(match code {
                    404 => ObjectsError::Missing { kind, name, flag },
                    401 | 403 => ObjectsError::Forbidden { kind, name, verb, source },
                    _ => ObjectsError::Failed { kind, name, verb, source },
                })
            }
        }
    }
}

/// The Secrets of the API server.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
    /// The flag that names them, for people.
    flag: &'static str,
}

impl Secrets {
    /// Reads and writes with this client what this flag names.
    #[must_use]
    pub fn new(client: Client, flag: &'static str) -> Self {
        Self { client, flag }
    }

    fn named(&self, name: &ObjectName) -> Named {
        Named { kind: "Secret", name: format!("{}/{}", name.namespace, name.name), flag: self.flag }
    }

    /// What the Secret holds.
    ///
    /// # Errors
    /// Names the Secret and the remedy.
    pub async fn secret(&self, name: &ObjectName) -> Result<Stored, ObjectsError> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &name.namespace);
        let secret = self.named(name).ask("get", api.get(&name.name)).await?;
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, ByteString(bytes))| (key, bytes)).collect();
        Ok(Stored { data, version: secret.metadata.resource_version.unwrap_or_default() })
    }

    /// Replaces what the Secret holds, and gives its new resourceVersion. None when it changed since it was read.
    ///
    /// # Errors
    /// Names the Secret and the remedy.
    pub async fn store(&self, name: &ObjectName, stored: &Stored) -> Result<Option<String>, ObjectsError> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &name.namespace);
        let named = self.named(name);
        // What else somebody wrote on it (labels of the chart) stays.
        let mut secret = named.ask("get", api.get(&name.name)).await?;
        if secret.metadata.resource_version.as_deref() != Some(&stored.version) {
            return Ok(None);
        }
        secret.data = Some(stored.data.iter().map(|(key, bytes)| (key.clone(), ByteString(bytes.clone()))).collect());
        match named.ask("update", api.replace(&name.name, &PostParams::default(), &secret)).await {
            Ok(written) => Ok(Some(written.metadata.resource_version.unwrap_or_default())),
            Err(ObjectsError::Failed { source, .. }) if is_conflict(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
