//! PolicyService: takes intents into the store and shows what became of them. It decides nothing about traffic: the engine
//! moves things, and this module must not import it, nor `elb`.

pub(crate) mod manifest;
mod preview;
mod warnings;
mod watch;

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures::Stream;
use jiff::Timestamp;
use prost::Message;
use switchyard_core::{
    access::{Role, Touch},
    ids::{Namespace, PolicyKey},
    policy::{Violation, validate},
};
use switchyard_proto::api::v1::{self as proto, policy_service_server::PolicyService};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use super::{
    Reading,
    caller::{caller, may_read_namespace, may_read_policy, reader},
    convert::{links, to_proto_plan, to_proto_policy},
    convert_failover::to_proto_explanation,
    errors::ApiError,
    page,
    planning::{Lane, Planning},
    required,
};
use crate::{
    feed::Picture,
    store::{Applied, Caller, Store, StoredPolicy},
};

/// Policies on one page; see the .proto file.
const DEFAULT_PAGE: u32 = 100;
const MOST_PAGE: u32 = 500;
/// Bytes of a page: policies of 64 KiB make it shorter, so that what one caller can ask for at a time is bounded.
const MOST_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Events that wait for one watcher.
const WATCH_OUTBOX: usize = 16;
/// Weights in one call: five clusters a rule, and room for a wrong one to be named.
const MOST_WEIGHTS: usize = 100;

/// What the service needs.
#[derive(Clone)]
pub struct PolicyParts {
    /// Where intents go.
    pub store: Store,
    /// Where reads come from.
    pub reading: Reading,
    /// For plans.
    pub planning: Planning,
    /// Ends every watch.
    pub shutdown: CancellationToken,
    /// Watches under way, for the one who waits for them at the end.
    pub tasks: TaskTracker,
}

/// The service.
pub struct Policies {
    parts: PolicyParts,
}

impl Policies {
    /// A service of these parts.
    pub fn new(parts: PolicyParts) -> Self {
        Self { parts }
    }

    fn picture(&self) -> Result<Arc<Picture>, ApiError> {
        self.parts.reading.picture()
    }

    /// So that whoever reads after this answer finds what was written.
    async fn written(&self) {
        self.parts.reading.feed.refreshed().await;
    }

    fn shown(&self, stored: &StoredPolicy) -> Result<proto::Policy, ApiError> {
        let picture = self.picture()?;
        Ok(to_proto_policy(stored, &links(&picture)))
    }

    async fn plan(
        &self,
        who: &str,
        picture: Arc<Picture>,
        change: Option<StoredPolicy>,
        shown: impl Fn(&PolicyKey) -> bool + Send + 'static,
    ) -> Result<proto::Plan, ApiError> {
        let planning = self.parts.planning.clone();
        let observed = planning.observed()?;
        let work = move || {
            let now = Timestamp::now();
            let mut sheet = planning.sheet(&picture);
            change.iter().for_each(|stored| sheet.put(stored));
            to_proto_plan(&sheet.plan(&picture.inventory, &observed, now), shown, now)
        };
        self.parts.planning.off_thread(Lane::Readers, who, work).await
    }

    async fn apply(
        &self,
        caller: Caller,
        request: proto::ApplyPolicyRequest,
    ) -> Result<proto::ApplyPolicyResponse, ApiError> {
        let manifest = manifest::parse(&request.manifest).map_err(|violation| ApiError::Invalid(vec![violation]))?;
        let policy = validate(&manifest).map_err(ApiError::Invalid)?;
        let key = &policy.key;
        caller.may(Role::Admin, &Touch::Policy(&key.namespace), format_args!("apply policy {key}"))?;
        let picture = self.picture()?;
        let (stored, applied, plan) = if request.dry_run {
            let change = preview::apply(&caller, &picture, &manifest, &policy, request.expected_version)?;
            let only = policy.key.clone();
            let plan = self
                .plan(&caller.actor, Arc::clone(&picture), Some(change.stored.clone()), move |key| *key == only)
                .await?;
            (change.stored, change.applied, Some(plan))
        } else {
            let store = &self.parts.store;
            let (stored, applied) = store.policy_apply(&caller, &manifest, &policy, request.expected_version).await?;
            tracing::info!(policy = %policy.key, ?applied, version = stored.record.version, actor = caller.actor, "a policy was applied");
            self.written().await;
            (stored, applied, None)
        };
        Ok(proto::ApplyPolicyResponse {
            policy: Some(self.shown(&stored)?),
            outcome: to_proto_applied(applied).into(),
            plan,
            warnings: warnings::warnings(&policy, &picture.inventory, &picture.fleet),
        })
    }

    fn get(&self, caller: &Caller, request: &proto::GetPolicyRequest) -> Result<proto::GetPolicyResponse, ApiError> {
        let key = required(request.policy.as_ref())?;
        may_read_policy(caller, &key)?;
        let picture = self.picture()?;
        let stored = preview::find(&picture, &key)?;
        Ok(proto::GetPolicyResponse { policy: Some(to_proto_policy(stored, &links(&picture))) })
    }

    fn list(
        &self,
        caller: &Caller,
        request: &proto::ListPoliciesRequest,
    ) -> Result<proto::ListPoliciesResponse, ApiError> {
        let namespace: Option<Namespace> = super::optional("namespace", &request.namespace)?;
        namespace.iter().try_for_each(|namespace| may_read_namespace(caller, namespace))?;
        let size = page::size(request.page_size, DEFAULT_PAGE, MOST_PAGE)?;
        let after = page::parse(&request.page_token, 2)?.map(|parts| (parts[0].clone(), parts[1].clone()));
        let picture = self.picture()?;
        let links = links(&picture);
        let place = |key: &PolicyKey| (key.namespace.to_string(), key.name.to_string());
        let wanted = |key: &PolicyKey| {
            caller.sees(&key.namespace)
                && namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
                && after.as_ref().is_none_or(|after| place(key) > *after)
        };
        let mut found = picture.policies.iter().filter(|(key, _)| wanted(key)).peekable();
        let (mut answer, mut bytes, mut last) = (proto::ListPoliciesResponse::default(), 0, None);
        while answer.policies.len() < size
            && let Some((key, stored)) = found.peek()
        {
            let shown = to_proto_policy(stored, &links);
            bytes += shown.encoded_len();
            if last.is_some() && bytes > MOST_PAGE_BYTES {
                break;
            }
            answer.policies.push(shown);
            last = Some(*key);
            found.next();
        }
        if let Some(key) = last.filter(|_| found.peek().is_some()) {
            answer.next_page_token = page::token(&[key.namespace.as_str(), key.name.as_str()]);
        }
        Ok(answer)
    }

    async fn set_weights(
        &self,
        caller: Caller,
        request: proto::SetWeightsRequest,
    ) -> Result<proto::SetWeightsResponse, ApiError> {
        let key = required(request.policy.as_ref())?;
        caller.may(Role::Operator, &Touch::Policy(&key.namespace), format_args!("set weights of policy {key}"))?;
        let count = request.weights.len();
        if count > MOST_WEIGHTS {
            return Err(ApiError::Invalid(vec![Violation {
                field: "weights".to_owned(),
                value: count.to_string(),
                problem: format!("is the number of weights, {MOST_WEIGHTS} are allowed"),
                remedy: "give a weight for each cluster of the policy at most".to_owned(),
            }]));
        }
        // Sorted, so that the answer to a bad request does not change from one try to the next.
        let wanted: Vec<(String, u32)> = request.weights.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect();
        let (stored, plan) = if request.dry_run {
            let picture = self.picture()?;
            let change = preview::set_weights(&caller, &picture, &key, &wanted, request.expected_version)?;
            let plan =
                self.plan(&caller.actor, picture, Some(change.stored.clone()), move |shown| *shown == key).await?;
            (change.stored, Some(plan))
        } else {
            let stored = self.parts.store.policy_set_weights(&caller, &key, &wanted, request.expected_version).await?;
            tracing::info!(policy = %key, ?wanted, version = stored.record.version, actor = caller.actor, "weights were set");
            self.written().await;
            (stored, None)
        };
        Ok(proto::SetWeightsResponse { policy: Some(self.shown(&stored)?), plan })
    }

    async fn delete(
        &self,
        caller: Caller,
        request: proto::DeletePolicyRequest,
    ) -> Result<proto::DeletePolicyResponse, ApiError> {
        let key = required(request.policy.as_ref())?;
        caller.may(Role::Admin, &Touch::Policy(&key.namespace), format_args!("delete policy {key}"))?;
        let stored = if request.dry_run {
            preview::delete(&caller, &*self.picture()?, &key, request.expected_version)?.stored
        } else {
            let stored = self.parts.store.policy_mark_deleting(&caller, &key, request.expected_version).await?;
            tracing::info!(policy = %key, version = stored.record.version, actor = caller.actor, "a policy was marked for deletion");
            self.written().await;
            stored
        };
        Ok(proto::DeletePolicyResponse { policy: Some(self.shown(&stored)?) })
    }

    async fn get_plan(
        &self,
        caller: Caller,
        request: &proto::GetPlanRequest,
    ) -> Result<proto::GetPlanResponse, ApiError> {
        let only = request.policy.as_ref().map(|policy| required(Some(policy))).transpose()?;
        only.iter().try_for_each(|key| may_read_policy(&caller, key))?;
        let picture = self.picture()?;
        if let Some(key) = &only {
            preview::find(&picture, key)?;
        }
        let who = caller.actor.clone();
        let shown =
            move |key: &PolicyKey| only.as_ref().map_or_else(|| caller.sees(&key.namespace), |only| only == key);
        Ok(proto::GetPlanResponse { plan: Some(self.plan(&who, picture, None, shown).await?) })
    }

    fn explain(
        &self,
        caller: &Caller,
        request: &proto::ExplainPolicyRequest,
    ) -> Result<proto::ExplainPolicyResponse, ApiError> {
        let key = required(request.policy.as_ref())?;
        may_read_policy(caller, &key)?;
        let picture = self.picture()?;
        let stored = preview::find(&picture, &key)?;
        let links = links(&picture);
        let explained = stored.status.as_ref();
        Ok(proto::ExplainPolicyResponse {
            policy: Some(to_proto_policy(stored, &links)),
            explanation: explained.and_then(|status| to_proto_explanation(&status.failover, &links, &picture.fleet)),
        })
    }

    async fn failback(
        &self,
        caller: Caller,
        request: &proto::FailbackPolicyRequest,
    ) -> Result<proto::FailbackPolicyResponse, ApiError> {
        let key = required(request.policy.as_ref())?;
        let touch = Touch::Policy(&key.namespace);
        caller.may(Role::Operator, &touch, format_args!("let clusters of policy {key} return"))?;
        let stored = self.parts.store.policy_failback(&caller, &key, request.expected_version).await?;
        tracing::info!(policy = %key, version = stored.record.version, actor = caller.actor, "clusters of a policy were let return");
        self.written().await;
        Ok(proto::FailbackPolicyResponse { policy: Some(self.shown(&stored)?) })
    }

    fn watch_filter(caller: Caller, request: &proto::WatchPoliciesRequest) -> Result<watch::Filter, ApiError> {
        let namespace = super::optional("namespace", &request.namespace)?;
        let policy = request.policy.as_ref().map(|policy| required(Some(policy))).transpose()?;
        namespace.iter().try_for_each(|namespace| may_read_namespace(&caller, namespace))?;
        policy.iter().try_for_each(|key| may_read_policy(&caller, key))?;
        Ok(watch::Filter { namespace, policy, seen: caller.grants })
    }
}

fn to_proto_applied(applied: Applied) -> proto::ApplyOutcome {
    match applied {
        Applied::Created => proto::ApplyOutcome::Created,
        Applied::Configured => proto::ApplyOutcome::Configured,
        Applied::Unchanged => proto::ApplyOutcome::Unchanged,
    }
}

#[tonic::async_trait]
impl PolicyService for Policies {
    type WatchPoliciesStream = Pin<Box<dyn Stream<Item = Result<proto::WatchPoliciesResponse, Status>> + Send>>;

    async fn apply_policy(
        &self,
        request: Request<proto::ApplyPolicyRequest>,
    ) -> Result<Response<proto::ApplyPolicyResponse>, Status> {
        let body = request.get_ref();
        let caller = caller(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.apply(caller, request.into_inner()).await;
        self.parts.reading.answer("ApplyPolicy", result)
    }

    async fn get_policy(
        &self,
        request: Request<proto::GetPolicyRequest>,
    ) -> Result<Response<proto::GetPolicyResponse>, Status> {
        let caller = reader(&request);
        self.parts.reading.answer("GetPolicy", self.get(&caller, request.get_ref()))
    }

    async fn list_policies(
        &self,
        request: Request<proto::ListPoliciesRequest>,
    ) -> Result<Response<proto::ListPoliciesResponse>, Status> {
        let caller = reader(&request);
        self.parts.reading.answer("ListPolicies", self.list(&caller, request.get_ref()))
    }

    async fn watch_policies(
        &self,
        request: Request<proto::WatchPoliciesRequest>,
    ) -> Result<Response<Self::WatchPoliciesStream>, Status> {
        let parts = &self.parts;
        let filter = match Self::watch_filter(reader(&request), request.get_ref()) {
            Ok(filter) => filter,
            Err(error) => return parts.reading.answer("WatchPolicies", Err(error)),
        };
        let (outbox, receiver) = mpsc::channel(WATCH_OUTBOX);
        let pictures = parts.reading.feed.subscribe();
        parts.tasks.spawn(watch::run(pictures, filter, outbox, parts.shutdown.clone()));
        let stream: Self::WatchPoliciesStream = Box::pin(ReceiverStream::new(receiver));
        parts.reading.answer("WatchPolicies", Ok(stream))
    }

    async fn delete_policy(
        &self,
        request: Request<proto::DeletePolicyRequest>,
    ) -> Result<Response<proto::DeletePolicyResponse>, Status> {
        let body = request.get_ref();
        let caller = caller(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.delete(caller, request.into_inner()).await;
        self.parts.reading.answer("DeletePolicy", result)
    }

    async fn set_weights(
        &self,
        request: Request<proto::SetWeightsRequest>,
    ) -> Result<Response<proto::SetWeightsResponse>, Status> {
        let body = request.get_ref();
        let caller = caller(&request, &body.request_id, body.dry_run, &body.reason);
        let result = self.set_weights(caller, request.into_inner()).await;
        self.parts.reading.answer("SetWeights", result)
    }

    async fn get_plan(
        &self,
        request: Request<proto::GetPlanRequest>,
    ) -> Result<Response<proto::GetPlanResponse>, Status> {
        let result = self.get_plan(reader(&request), request.get_ref()).await;
        self.parts.reading.answer("GetPlan", result)
    }

    async fn explain_policy(
        &self,
        request: Request<proto::ExplainPolicyRequest>,
    ) -> Result<Response<proto::ExplainPolicyResponse>, Status> {
        let caller = reader(&request);
        self.parts.reading.answer("ExplainPolicy", self.explain(&caller, request.get_ref()))
    }

    async fn failback_policy(
        &self,
        request: Request<proto::FailbackPolicyRequest>,
    ) -> Result<Response<proto::FailbackPolicyResponse>, Status> {
        let body = request.get_ref();
        let caller = caller(&request, &body.request_id, false, &body.reason);
        let result = self.failback(caller, body).await;
        self.parts.reading.answer("FailbackPolicy", result)
    }
}
