//! `get`: lists of what the hub knows, all pages of them.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{Context, change::present, history};
use crate::{
    args::Get,
    error::{Exit, Failure, Kind},
    hub::{Hub, MAX_PAGES},
    model::{Cluster, Endpoint, Policy, PolicyRef},
    parse::PolicyName,
    render,
};

/// The largest page that the hub gives.
const POLICIES_A_PAGE: u32 = 500;
const ENDPOINTS_A_PAGE: u32 = 1000;

pub async fn run(context: &Context, what: Get) -> Result<(), Failure> {
    match what {
        Get::Policies { name: Some(name) } => one_policy(context, &name).await,
        Get::Policies { name: None } => policies(context).await,
        Get::Clusters { name } => clusters(context, name).await,
        Get::Shifts { name } => history::get(context, name).await,
        Get::Endpoints { service, cluster, unready } => endpoints(context, service, cluster, unready).await,
    }
}

/// Reads one policy.
pub async fn policy(hub: &Hub, policy: &PolicyRef) -> Result<Policy, Failure> {
    let what = format!("cannot read {policy}");
    let message = pb::GetPolicyRequest { policy: Some(policy.into()) };
    let answer = hub
        .call(&what, Kind::Read, message, async |channel, request| Hub::policies(channel).get_policy(request).await)
        .await?;
    present(&what, answer.policy)
}

async fn one_policy(context: &Context, name: &PolicyName) -> Result<(), Failure> {
    let reference = name.resolve(context.namespace())?;
    let policy = policy(&context.hub(false)?, &reference).await?;
    context.output.show(&policy, |paint, now| render::policies(std::slice::from_ref(&policy), paint, now))
}

async fn policies(context: &Context) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let mut pages = Pages::new("cannot list the policies");
    let mut policies: Vec<Policy> = Vec::new();
    while let Some(page_token) = pages.next_token()? {
        let namespace = context.namespace().unwrap_or_default().to_owned();
        let message = pb::ListPoliciesRequest { namespace, page_size: POLICIES_A_PAGE, page_token };
        let answer = hub
            .call(pages.what, Kind::Read, message, async |channel, request| {
                Hub::policies(channel).list_policies(request).await
            })
            .await?;
        policies.extend(answer.policies.into_iter().map(Policy::from));
        pages.came(answer.next_page_token);
    }
    policies.sort_by(|a, b| a.reference.cmp(&b.reference));
    #[derive(Serialize)]
    struct Policies {
        policies: Vec<Policy>,
    }
    let list = Policies { policies };
    context.output.show(&list, |paint, now| render::policies(&list.policies, paint, now))
}

async fn clusters(context: &Context, name: Option<String>) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let answer = hub
        .call("cannot list the clusters", Kind::Read, pb::ListClustersRequest {}, async |channel, request| {
            Hub::clusters(channel).list_clusters(request).await
        })
        .await?;
    let mut clusters: Vec<Cluster> = answer.clusters.into_iter().map(Cluster::from).collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(name) = name {
        let known: Vec<String> = clusters.iter().map(|cluster| cluster.name.clone()).collect();
        let Some(cluster) = clusters.into_iter().find(|cluster| cluster.name == name) else {
            let why = format!("no such cluster; known are: {}", known.join(", "));
            let remedy = "check the name; a cluster is known once its agent has connected";
            return Err(Failure::new(Exit::NotFound, format!("cannot show cluster '{name}'"), why, remedy));
        };
        return context
            .output
            .show(&cluster, |paint, now| render::clusters(std::slice::from_ref(&cluster), paint, now));
    }
    #[derive(Serialize)]
    struct Clusters {
        clusters: Vec<Cluster>,
    }
    let list = Clusters { clusters };
    context.output.show(&list, |paint, now| render::clusters(&list.clusters, paint, now))
}

async fn endpoints(
    context: &Context,
    service: Option<String>,
    cluster: Option<String>,
    unready: bool,
) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let mut pages = Pages::new("cannot list the endpoints");
    let mut endpoints: Vec<Endpoint> = Vec::new();
    while let Some(page_token) = pages.next_token()? {
        let message = pb::ListEndpointsRequest {
            cluster: cluster.clone().unwrap_or_default(),
            namespace: context.namespace().unwrap_or_default().to_owned(),
            service: service.clone().unwrap_or_default(),
            page_size: ENDPOINTS_A_PAGE,
            page_token,
        };
        let answer = hub
            .call(pages.what, Kind::Read, message, async |channel, request| {
                Hub::clusters(channel).list_endpoints(request).await
            })
            .await?;
        endpoints.extend(answer.endpoints.into_iter().map(Endpoint::from));
        pages.came(answer.next_page_token);
    }
    endpoints.retain(|endpoint| !unready || !endpoint.ready || endpoint.terminating);
    #[derive(Serialize)]
    struct Endpoints {
        endpoints: Vec<Endpoint>,
    }
    let list = Endpoints { endpoints };
    context.output.show(&list, |paint, now| render::endpoints(&list.endpoints, paint, now))
}

/// Page tokens, with an end: a hub that gives the same token twice would keep us for ever.
pub struct Pages {
    pub what: &'static str,
    token: Option<String>,
    last: String,
    count: usize,
}

impl Pages {
    pub fn new(what: &'static str) -> Self {
        Self { what, token: Some(String::new()), last: String::new(), count: 0 }
    }

    pub fn next_token(&mut self) -> Result<Option<String>, Failure> {
        let Some(token) = self.token.take() else {
            return Ok(None);
        };
        if self.count > 0 && (token == self.last || self.count >= MAX_PAGES) {
            let why = format!("the hub's pages do not end (page {}, token '{token}')", self.count);
            return Err(Failure::new(Exit::Internal, self.what, why, "look into the hub's log"));
        }
        self.count += 1;
        self.last.clone_from(&token);
        Ok(Some(token))
    }

    /// Whether the hub has more than what came.
    pub fn has_more(&self) -> bool {
        self.token.is_some()
    }

    pub fn came(&mut self, next: String) {
        self.token = (!next.is_empty()).then_some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_with_an_empty_token() {
        let mut pages = Pages::new("x");
        assert_eq!(pages.next_token().unwrap(), Some(String::new()));
        pages.came("a".into());
        assert_eq!(pages.next_token().unwrap(), Some("a".into()));
        pages.came(String::new());
        assert_eq!(pages.next_token().unwrap(), None);
    }

    #[test]
    fn a_token_that_comes_twice_is_an_error_and_not_an_endless_loop() {
        let mut pages = Pages::new("x");
        for _ in 0..2 {
            pages.next_token().unwrap();
            pages.came("a".into());
        }
        assert_eq!(pages.next_token().unwrap_err().exit, Exit::Internal);
    }
}
