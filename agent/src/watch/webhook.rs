//! The two objects that the webhook's certificate needs: the Secret that holds it, and the configuration that names who to trust.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// All of its keys.
    pub data: Data,
    /// Its resourceVersion.
    pub version: String,
}

/// The API server, as far as the webhook's certificate is concerned.
#[derive(Clone)]
pub struct Objects {
    client: Client,
}

/// One object and how it is spoken of.
#[derive(Clone)]
struct Named {
    kind: &'static str,
    name: String,
    flag: &'static str,
}

impl Named {
    async fn ask<T>(
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

fn secret_named(name: &ObjectName) -> Named {
    let name = format!("{}/{}", name.namespace, name.name);
    Named { kind: "Secret", name, flag: "--webhook-secret" }
}

impl Objects {
    /// Reads and writes with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// What the Secret holds.
    ///
    /// # Errors
    /// Names the Secret and the remedy.
    pub async fn secret(&self, name: &ObjectName) -> Result<Stored, ObjectsError> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &name.namespace);
        let secret = secret_named(name).ask("get", api.get(&name.name)).await?;
        let data = secret.data.unwrap_or_default().into_iter().map(|(key, ByteString(bytes))| (key, bytes)).collect();
        Ok(Stored { data, version: secret.metadata.resource_version.unwrap_or_default() })
    }

    /// Replaces what the Secret holds. False when it changed since it was read.
    ///
    /// # Errors
    /// Names the Secret and the remedy.
    pub async fn store(&self, name: &ObjectName, stored: &Stored) -> Result<bool, ObjectsError> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &name.namespace);
        let named = secret_named(name);
        // What else somebody wrote on it (labels of the chart) stays.
        let mut secret = named.ask("get", api.get(&name.name)).await?;
        if secret.metadata.resource_version.as_deref() != Some(&stored.version) {
            return Ok(false);
        }
        secret.data = Some(stored.data.iter().map(|(key, bytes)| (key.clone(), ByteString(bytes.clone()))).collect());
        match named.ask("update", api.replace(&name.name, &PostParams::default(), &secret)).await {
            Ok(_) => Ok(true),
            Err(ObjectsError::Failed { source, .. }) if is_conflict(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the API server trust these authorities when it calls the Service; writes only what differs.
    ///
    /// # Errors
    /// Names the configuration and the remedy.
    pub async fn trust(&self, name: &str, service: &ObjectName, bundle: &[u8]) -> Result<(), ObjectsError> {
        let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        let kind = "MutatingWebhookConfiguration";
        let named = Named { kind, name: name.to_owned(), flag: "--webhook-configuration" };
        let configuration = named.ask("get", api.get(name)).await?;
        let others = configuration.webhooks.unwrap_or_default().into_iter().filter(|webhook| {
            let of_service =
                webhook.client_config.service.as_ref().is_some_and(|reference| {
                    reference.name == service.name && reference.namespace == service.namespace
                });
            of_service && webhook.client_config.ca_bundle.as_ref().is_none_or(|ByteString(held)| held != bundle)
        });
        let ca_bundle = ByteString(bundle.to_vec());
        let webhooks: Vec<_> =
            others.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": ca_bundle}})).collect();
        if !webhooks.is_empty() {
            // Merged by name: rules and selectors are the chart's.
            let patch = Patch::Strategic(json!({"webhooks": webhooks}));
            named.ask("patch", api.patch(name, &PatchParams::default(), &patch)).await?;
        }
        Ok(())
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
