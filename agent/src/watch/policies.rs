//! The watcher of one kind of resource that the hub is told of, in all namespaces. Strips them on arrival; `policies::guard` decides what of it is
//! believed, and the looks at the resource definition which that needs are made here.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::watcher::{self, Event},
};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tracing::{info, warn};

use super::{
    client::observed,
    source::{CALM, Failure, MAX_MESSAGE, config, describe, describe_call, lost_an_event},
};
use crate::{
    backoff::Backoff,
    metrics::{Metrics, WatchErrorReason},
    policies::{
        guard::{Definition, believe},
        objects::{GROUP, Key, MAX_SPEC_BYTES, Resource, Shown, SourceEvent, Spec, VERSION},
        status::ResourceStatus,
    },
    text::truncated,
};

/// Events that may wait for the session. A resource is at most 64 KiB of spec and what its status holds.
const EVENTS: usize = 64;
/// Bytes of a status as JSON that is kept: several times what the agent writes for a policy of five clusters with long messages.
const MAX_STATUS_BYTES: usize = 128 * 1024;
/// Events that are taken in at once.
const BATCH: usize = 64;

/// Watches while it is wanted. Dropping it ends the watch.
pub struct PolicyWatch<S = ResourceStatus> {
    client: Client,
    metrics: Metrics,
    running: Option<Running<S>>,
}

struct Running<S> {
    events: mpsc::Receiver<SourceEvent<S>>,
    /// Ends the watcher when it is dropped.
    tasks: JoinSet<()>,
}

impl<S: Shown> PolicyWatch<S> {
    /// No watch yet.
    #[must_use]
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self { client, metrics, running: None }
    }

    /// Begins to watch, with a list, or stops. What a watch that was stopped had to say is not heard any more.
    pub fn want(&mut self, wanted: bool) {
        if !wanted {
            self.running = None;
        } else if self.running.is_none() {
            let (sender, events) = mpsc::channel(EVENTS);
            let mut tasks = JoinSet::new();
            tasks.spawn(follow(self.client.clone(), sender, self.metrics.clone()));
            self.running = Some(Running { events, tasks });
        }
    }

    /// Waits for events and appends them. Without a watch it waits for ever. Cancel safe.
    pub async fn next(&mut self, batch: &mut Vec<SourceEvent<S>>) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        if running.events.recv_many(batch, BATCH).await == 0 {
            // Only a panic ends the watcher while somebody listens.
            self.running = None;
            batch.push(SourceEvent::Failing(format!("the watcher of {} ended; restart the agent", S::PLURAL)));
        }
    }

    /// Ends the watch and waits for that.
    pub async fn stop(mut self) {
        if let Some(running) = &mut self.running {
            running.tasks.shutdown().await;
        }
    }
}

/// The resource as the API server names it.
pub fn resource<S: Shown>() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, S::KIND), S::PLURAL)
}

/// What is kept of a resource; None when it lacks what every API server gives.
pub fn strip<S: Shown>(object: DynamicObject) -> Option<Resource<S>> {
    let DynamicObject { metadata, mut data, .. } = object;
    let mut take = |field: &str| data.get_mut(field).map(Value::take).unwrap_or_default();
    let spec = take("spec").to_string();
    let status = take("status");
    // Nothing that the agent wrote is that long. It reads as an empty one, and what the agent's fields hold is written anew.
    let status = if status.to_string().len() > MAX_STATUS_BYTES { Value::Null } else { status };
    let status = S::parse(status);
    Some(Resource {
        key: Key { namespace: metadata.namespace?, name: metadata.name? },
        uid: metadata.uid?,
        generation: metadata.generation.and_then(|generation| u64::try_from(generation).ok()).unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        spec: if spec.len() > MAX_SPEC_BYTES { Spec::TooLarge { bytes: spec.len() } } else { Spec::Text(spec.into()) },
        status,
    })
}

async fn follow<S: Shown>(client: Client, events: mpsc::Sender<SourceEvent<S>>, metrics: Metrics) {
    let reporter = Reporter { events, failing: Arc::default() };
    let on_watch = {
        let reporter = reporter.clone();
        move || {
            let reporter = reporter.clone();
            async move {
                reporter.recovered();
                // When nobody listens any more, the next event of the watcher finds that out and ends it.
                let _ = reporter.tell(SourceEvent::Following).await;
            }
        }
    };
    let definitions = Api::all(client.clone());
    let policies: Api<DynamicObject> = Api::all_with(observed(client, on_watch), &resource::<S>());
    let mut follower = Follower {
        definitions,
        definition: String::new(),
        reporter,
        metrics,
        backoff: Backoff::default(),
        last_failure: None,
    };
    while follower.run(kube::runtime::watcher(policies.clone(), config())).await == Next::List {}
}

/// What follows an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The next event.
    Event,
    /// A new list: what was seen cannot be built on.
    List,
    /// Nothing: nobody listens.
    End,
}

struct Follower<S> {
    definitions: Api<CustomResourceDefinition>,
    /// UID of the definition that stood when the list began.
    definition: String,
    reporter: Reporter<S>,
    metrics: Metrics,
    backoff: Backoff,
    last_failure: Option<Instant>,
}

impl<S: Shown> Follower<S> {
    async fn run(&mut self, stream: impl Stream<Item = watcher::Result<Event<DynamicObject>>>) -> Next {
        let mut stream = std::pin::pin!(stream);
        while let Some(next) = stream.next().await {
            let next = match next {
                Ok(event) => self.pass_on(event).await,
                Err(error) => {
                    let failure = describe(&error);
                    // Without the definition there is no such path, and the look at it before the next list says so.
                    let anew = failure.reason == WatchErrorReason::NotFound || lost_an_event(&error);
                    let next = self.fail(failure).await;
                    if next == Next::Event && anew { Next::List } else { next }
                }
            };
            if next != Next::Event {
                return next;
            }
        }
        Next::List
    }

    async fn pass_on(&mut self, event: Event<DynamicObject>) -> Next {
        match event {
            // kube announces a list before it asks for it, so this look is made before the list.
            Event::Init => match self.look_before().await {
                Next::Event => self.reporter.tell(SourceEvent::ListStarted).await,
                other => other,
            },
            Event::InitApply(object) => match strip(object) {
                Some(resource) => self.reporter.tell(SourceEvent::Listed(Box::new(resource))).await,
                None => Next::Event,
            },
            Event::InitDone => self.believed(SourceEvent::ListDone).await,
            Event::Apply(object) => match strip(object) {
                Some(resource) => {
                    self.reporter.recovered();
                    self.reporter.tell(SourceEvent::Applied(Box::new(resource))).await
                }
                None => Next::Event,
            },
            Event::Delete(object) => match strip::<S>(object) {
                Some(resource) => self.believed(SourceEvent::Deleted { key: resource.key, uid: resource.uid }).await,
                None => Next::Event,
            },
        }
    }

    /// Waits until the definition stands.
    async fn look_before(&mut self) -> Next {
        loop {
            let failure = match self.definition().await {
                Ok(definition) => match definition.standing(S::DEFINITION) {
                    Ok(uid) => {
                        uid.clone_into(&mut self.definition);
                        return Next::Event;
                    }
                    Err(message) => Failure::not_found(message),
                },
                Err(failure) => failure,
            };
            if self.fail(failure).await == Next::End {
                return Next::End;
            }
        }
    }

    /// Passes on what speaks of an end, when it can be believed; else everything is looked at anew.
    async fn believed(&mut self, event: SourceEvent<S>) -> Next {
        loop {
            let failure = match self.definition().await {
                Ok(definition) => match believe(S::DEFINITION, &self.definition, &definition) {
                    Ok(()) => {
                        self.reporter.recovered();
                        return self.reporter.tell(event).await;
                    }
                    Err(message) => {
                        return match self.fail(Failure::not_found(message)).await {
                            Next::End => Next::End,
                            Next::Event | Next::List => Next::List,
                        };
                    }
                },
                // The API server is asked until it answers: to drop the event would lose the only evidence of a deletion.
                Err(failure) => failure,
            };
            if self.fail(failure).await == Next::End {
                return Next::End;
            }
        }
    }

    async fn definition(&self) -> Result<Definition, Failure> {
        let found = self.definitions.get_metadata_opt(S::DEFINITION).await.map_err(|error| {
            let failure = describe_call(&error);
            let message = format!(
                "the agent must be able to get the CustomResourceDefinition {}, to tell a deleted resource from a deleted \
                 definition: {}",
                S::DEFINITION,
                failure.message
            );
            Failure { message: truncated(&message, MAX_MESSAGE), ..failure }
        })?;
        let Some(found) = found else { return Ok(Definition::Missing) };
        if found.metadata.deletion_timestamp.is_some() {
            return Ok(Definition::Terminating);
        }
        Ok(Definition::Standing { uid: found.metadata.uid.unwrap_or_default() })
    }

    /// Tells of the failure and waits a while.
    async fn fail(&mut self, failure: Failure) -> Next {
        if self.last_failure.is_none_or(|last| last.elapsed() > CALM) {
            self.backoff.reset();
        }
        self.last_failure = Some(Instant::now());
        self.metrics.policy_watch_error(S::KIND, failure.reason);
        self.reporter.fails(&failure.message);
        let next = self.reporter.tell(SourceEvent::Failing(failure.message)).await;
        if next == Next::Event {
            tokio::time::sleep(self.backoff.next(rand::random())).await;
        }
        next
    }
}

/// Tells the session what happens, and the log when it changes.
struct Reporter<S> {
    events: mpsc::Sender<SourceEvent<S>>,
    /// What was last logged as wrong. Held for a comparison only, never across an await.
    failing: Arc<Mutex<Option<String>>>,
}

impl<S> Clone for Reporter<S> {
    fn clone(&self) -> Self {
        Self { events: self.events.clone(), failing: Arc::clone(&self.failing) }
    }
}

impl<S: Shown> Reporter<S> {
    fn fails(&self, message: &str) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.as_deref() != Some(message) {
            warn!(
                error = message,
                kind = S::KIND,
                "{} cannot be watched; what was seen stays in force while it is tried again",
                S::NOUN
            );
            *failing = Some(message.to_owned());
        }
    }

    fn recovered(&self) {
        if self.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            info!(kind = S::KIND, "{} can be watched again", S::NOUN);
        }
    }

    async fn tell(&self, event: SourceEvent<S>) -> Next {
        if self.events.send(event).await.is_ok() { Next::Event } else { Next::End }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: Value) -> DynamicObject {
        let object = json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy", "spec": spec,
            "metadata": {"name": "checkout", "namespace": "shop", "uid": "u", "generation": 2, "resourceVersion": "7",
                "managedFields": [{"manager": "kubectl"}], "labels": {"a": "b"}},
            "status": {"observedGeneration": 2, "claim": "Owner"}});
        serde_json::from_value(object).expect("an object")
    }

    #[test]
    fn only_what_the_hub_and_the_status_need_is_kept() {
        let kept: Resource = strip(object(json!({"order": 100}))).expect("a resource");
        assert_eq!(kept.spec, Spec::Text("{\"order\":100}".into()));
        assert_eq!((kept.uid.as_str(), kept.generation, kept.resource_version.as_str()), ("u", 2, "7"));
        assert_eq!(kept.status.observed_generation, Some(2));
    }

    #[test]
    fn a_status_that_nobody_of_us_wrote_is_not_kept() {
        let mut object = object(json!({}));
        object.data["status"]["weights"] = json!("x".repeat(MAX_STATUS_BYTES));
        assert_eq!(strip::<ResourceStatus>(object).expect("a resource").status, ResourceStatus::default());
    }

    #[test]
    fn a_spec_beyond_the_limit_is_not_kept() {
        let just_fits = MAX_SPEC_BYTES - "{\"a\":\"\"}".len();
        assert!(matches!(
            strip::<ResourceStatus>(object(json!({"a": "x".repeat(just_fits)}))).expect("one").spec,
            Spec::Text(_)
        ));
        let kept: Resource = strip(object(json!({"a": "x".repeat(just_fits + 1)}))).expect("a resource");
        assert_eq!(kept.spec, Spec::TooLarge { bytes: MAX_SPEC_BYTES + 1 });
    }
}
