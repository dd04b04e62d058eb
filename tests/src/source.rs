//! The policies of a cluster, told to the hub by hand: what an agent would say of the resources in its cluster, without one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use switchyard_proto::agent::v1::{
    self as agent, PolicyClaim, SourcePolicyStatus, SyncPoliciesRequest,
    policy_source_service_client::PolicySourceServiceClient, sync_policies_request::Message as Say,
    sync_policies_response::Message as Heard,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use crate::{policy::Policy, wait};

type Statuses = Arc<Mutex<BTreeMap<String, SourcePolicyStatus>>>;

/// A stream of policies.
#[derive(Debug)]
pub struct Source {
    outbox: mpsc::Sender<SyncPoliciesRequest>,
    seq: u64,
    acked: watch::Receiver<u64>,
    statuses: Statuses,
    reader: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Source {
    /// Opens the stream of a cluster that the hub takes policies from.
    ///
    /// # Errors
    /// When the hub does not take any.
    pub async fn connect(hub: &str, cluster: &str) -> anyhow::Result<Self> {
        let mut client = PolicySourceServiceClient::connect(hub.to_owned()).await?;
        let (outbox, receiver) = mpsc::channel(64);
        let hello = agent::SourceHello {
            cluster: cluster.to_owned(),
            agent_instance_id: Uuid::new_v4().to_string(),
            agent_version: "test".to_owned(),
            highest_epoch_seen: 0,
        };
        outbox.send(SyncPoliciesRequest { seq: 0, message: Some(Say::Hello(hello)) }).await?;
        let mut inbox = client.sync_policies(ReceiverStream::new(receiver)).await?.into_inner();
        let first = inbox.message().await?.and_then(|message| message.message);
        match first {
            Some(Heard::Welcome(welcome)) if welcome.is_source => {}
            other => anyhow::bail!("the hub takes no policies from {cluster}: {other:?}"),
        }
        let (acks, acked) = watch::channel(0);
        let statuses = Statuses::default();
        let told = Arc::clone(&statuses);
        let reader = tokio::spawn(async move {
            while let Ok(Some(message)) = inbox.message().await {
                match message.message {
                    Some(Heard::Ack(ack)) => drop(acks.send(ack.seq)),
                    Some(Heard::Status(status)) => {
                        let name = status.policy.as_ref().map(|policy| policy.name.clone()).unwrap_or_default();
                        told.lock().unwrap_or_else(PoisonError::into_inner).insert(name, status);
                    }
                    Some(Heard::Welcome(_)) | None => {}
                }
            }
        });
        Ok(Self { outbox, seq: 0, acked, statuses, reader })
    }

    /// The cluster shows exactly these resources.
    ///
    /// # Errors
    /// When the hub does not store it.
    pub async fn list(&mut self, resources: &[(&Policy, u64)]) -> anyhow::Result<()> {
        let list_id = Uuid::new_v4().to_string();
        self.say(Say::ListBegin(agent::PolicyListBegin { list_id: list_id.clone() })).await?;
        self.change(resources).await?;
        let count = u32::try_from(resources.len())?;
        self.say(Say::ListEnd(agent::PolicyListEnd { list_id, count })).await
    }

    /// These resources are new, or have a new generation.
    ///
    /// # Errors
    /// When the hub does not store it.
    pub async fn change(&mut self, resources: &[(&Policy, u64)]) -> anyhow::Result<()> {
        let upserts = resources.iter().map(|(policy, generation)| agent::SourcePolicy {
            namespace: text(&policy.0["metadata"]["namespace"]),
            name: text(&policy.0["metadata"]["name"]),
            uid: uid(&text(&policy.0["metadata"]["name"])),
            generation: *generation,
            spec_json: policy.0["spec"].to_string(),
        });
        self.say(Say::Changes(agent::PolicyChanges { upserts: upserts.collect(), deleted: Vec::new() })).await
    }

    /// `shop/<name>` was seen to be deleted.
    ///
    /// # Errors
    /// When the hub does not store it.
    pub async fn delete(&mut self, name: &str) -> anyhow::Result<()> {
        let deleted = agent::DeletedPolicy { namespace: "shop".to_owned(), name: name.to_owned(), uid: uid(name) };
        self.say(Say::Changes(agent::PolicyChanges { upserts: Vec::new(), deleted: vec![deleted] })).await
    }

    /// Waits until the resource is told what is wanted.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn told(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&SourcePolicyStatus) -> bool,
    ) -> SourcePolicyStatus {
        wait::until(&format!("the resource {name} to be told {what}"), async || {
            let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
            let status = statuses.get(name).ok_or("nothing yet")?;
            wait::check(holds(status), || format!("{status:?}")).map(|()| status.clone())
        })
        .await
    }

    /// Waits until the resource is told that it owns its policy and that it is in this condition.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn owns(&self, name: &str, condition: &str, generation: u64) -> SourcePolicyStatus {
        let what = format!("that its generation {generation} is {condition}");
        self.told(name, &what, |status| {
            let owner = status.claim() == PolicyClaim::Owner && status.generation_in_force == generation;
            owner && is_true(status, condition)
        })
        .await
    }

    async fn say(&mut self, message: Say) -> anyhow::Result<()> {
        self.seq += 1;
        self.outbox.send(SyncPoliciesRequest { seq: self.seq, message: Some(message) }).await?;
        let seq = self.seq;
        let acked = tokio::time::timeout(wait::PATIENCE, self.acked.wait_for(|acked| *acked >= seq)).await;
        acked.context("the hub acknowledged nothing in time")?.context("the hub ended the stream")?;
        Ok(())
    }
}

/// True when the condition is True.
pub fn is_true(status: &SourcePolicyStatus, condition: &str) -> bool {
    let conditions = status.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|found| found.r#type == condition && found.status() == switchyard_proto::api::v1::ConditionStatus::True)
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn uid(name: &str) -> String {
    format!("uid-of-{name}")
}
