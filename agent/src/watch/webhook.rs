//! The two objects that the webhook's certificate needs: the Secret that holds it, and the configuration that names who to trust.

use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::secret::{Named, Secrets};
pub use super::secret::{ObjectsError, Stored};
use crate::args::gates::ObjectName;

/// The API server, as far as the webhook's certificate is concerned.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    secrets: Secrets,
}

impl Objects {
    /// Reads and writes with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { secrets: Secrets::new(client.clone(), "--webhook-secret"), client }
    }

    /// What the Secret holds.
    ///
    /// # Errors
    /// Names the Secret and the remedy.
    pub async fn secret(&self, name: &ObjectName) -> Result<Stored, ObjectsError> {
        self.secrets.secret(name).await
    }

    /// Replaces what the Secret holds. False when it changed since it was read.
    ///
    /// # Errors
    /// Names the Secret and the remedy.
    pub async fn store(&self, name: &ObjectName, stored: &Stored) -> Result<bool, ObjectsError> {
        Ok(self.secrets.store(name, stored).await?.is_some())
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
