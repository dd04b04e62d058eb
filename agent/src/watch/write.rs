//! The writes of the agent about resources: the status of a resource, and Events. Nothing here decides whether to write.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use serde_json::json;

use super::{
    policies::{resource, strip},
    source::describe_call,
};
use crate::{
    metrics::WatchErrorReason,
    policies::{
        events::{Draft, Kind},
        objects::{GROUP, Key, Shown, VERSION},
        writer::Outcome,
    },
    text::truncated,
};

/// Owner of the fields of the status that the agent writes.
pub const FIELD_MANAGER: &str = "switchyard-agent";
/// The controller in Events.
const REPORTING_CONTROLLER: &str = "switchyard.dev/agent";
/// An API server that works answers within a second.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Of the resource's name in an Event's name, which has at most 253 characters.
const MAX_NAME: usize = 200;

/// What an API server says of new objects in a namespace that is being deleted; its code is that of a missing permission.
const TERMINATING: &str = "because it is being terminated";

/// What became of an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventOutcome {
    /// It is there.
    Written,
    /// Its namespace goes or is gone, and with it everybody who could read it.
    NamespaceGone,
    /// Why not, for people.
    Failed(String),
}

/// Writes to one cluster's API server; clones share the client.
#[derive(Clone)]
pub struct PolicyWrites {
    client: Client,
    instance_id: String,
}

impl PolicyWrites {
    /// `instance_id` names this process in Events.
    #[must_use]
    pub fn new(client: Client, instance_id: String) -> Self {
        Self { client, instance_id }
    }

    /// Writes a status by server-side apply, to this version of the resource only. The spec is not part of it. It is the version that
    /// keeps it from another resource of the same name: an API server does not look at the UID in a write of a status.
    pub async fn status<S: Shown>(&self, key: &Key, uid: &str, version: &str, status: &S) -> Outcome<S> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource::<S>());
        let body = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": S::KIND,
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid, "resourceVersion": version},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match within(api.patch_status(&key.name, &params, &Patch::Apply(&body))).await {
            Ok(object) => match strip(object) {
                Some(resource) => Outcome::Written(Box::new(resource)),
                None => Outcome::Failed("the API server answered with a resource without a name".to_owned()),
            },
            Err(Refusal { code: 409, .. }) => Outcome::Conflict,
            Err(Refusal { code: 404, .. }) => Outcome::Gone,
            Err(Refusal { code: 403, message, .. }) => Outcome::Forbidden(message),
            Err(Refusal { message, .. }) => Outcome::Failed(message),
        }
    }

    /// Writes an Event about a resource.
    pub async fn event<S: Shown>(&self, key: &Key, uid: &str, draft: &Draft) -> EventOutcome {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let kind = match draft.kind {
            Kind::Normal => "Normal",
            Kind::Warning => "Warning",
        };
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{}", truncated_name(&key.name), uuid::Uuid::new_v4().simple())),
                namespace: Some(key.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(jiff::Timestamp::now())),
            reporting_controller: Some(REPORTING_CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance_id.clone()),
            action: Some(draft.action.to_owned()),
            reason: Some(truncated(&draft.reason, 128)),
            note: Some(draft.note.clone()),
            type_: Some(kind.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(format!("{GROUP}/{VERSION}")),
                kind: Some(S::KIND.to_owned()),
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        };
        match within(api.create(&PostParams::default(), &event)).await {
            Ok(_) => EventOutcome::Written,
            Err(Refusal { code: 404, .. }) => EventOutcome::NamespaceGone,
            Err(refusal) if refusal.code == 403 && refusal.message.contains(TERMINATING) => EventOutcome::NamespaceGone,
            Err(refusal) => EventOutcome::Failed(refusal.message),
        }
    }
}

/// The name up to the bound; what is left must end as a name may.
fn truncated_name(name: &str) -> &str {
    let end = name.char_indices().nth(MAX_NAME).map_or(name.len(), |(end, _)| end);
    name[..end].trim_end_matches(['.', '-'])
}

/// A call that was not answered as hoped. The code is 0 when there was no answer.
struct Refusal {
    code: u16,
    message: String,
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
            let failure = describe_call(&error);
            let message = match failure.reason {
                WatchErrorReason::Forbidden => format!("{}; give the agent's role this verb", failure.message),
                _ => failure.message,
            };
            Err(Refusal { code, message })
        }
        Err(_) => {
            Err(Refusal { code: 0, message: format!("the API server did not answer within {} s", TIMEOUT.as_secs()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_leaves_room_for_the_rest_of_the_events_name() {
        assert_eq!(truncated_name("checkout"), "checkout");
        let long = format!("{}-.{}", "a".repeat(MAX_NAME - 1), "b".repeat(50));
        assert_eq!(truncated_name(&long), "a".repeat(MAX_NAME - 1));
    }
}
