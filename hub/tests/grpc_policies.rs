//! PolicyService, ClusterService, health and reflection over real gRPC and a real Postgres.

mod grpc_support;
mod store_support;

use std::time::Duration;

use grpc_support::{Agent, Hub, PATIENCE, eventually, hello, hub, manifest, policy_ref, weights};
use prost::Message;
use switchyard_proto::api::v1 as api;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

fn set_weights(name: &str, pairs: &[(&str, u32)]) -> api::SetWeightsRequest {
    api::SetWeightsRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        policy: Some(policy_ref(name)),
        weights: weights(pairs),
        ..api::SetWeightsRequest::default()
    }
}

async fn set(hub: &Hub, request: api::SetWeightsRequest) -> Result<api::Policy, Status> {
    Ok(hub.policies().set_weights(request).await?.into_inner().policy.unwrap())
}

fn requested(policy: &api::Policy) -> Vec<(String, u32)> {
    let clusters = &policy.status.as_ref().unwrap().clusters;
    clusters.iter().map(|cluster| (cluster.cluster.clone(), cluster.requested_weight)).collect()
}

fn violations(status: &Status) -> Vec<api::Violation> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    api::Violations::decode(status.details()).unwrap().violations
}

#[tokio::test]
async fn a_policy_is_created_shown_changed_and_marked_for_deletion() {
    let hub = hub().await;
    let text = manifest("web", &[("blue", 100), ("green", 0)]);
    let created = hub.apply(&text).await.unwrap();
    assert_eq!(created.outcome(), api::ApplyOutcome::Created);
    let policy = created.policy.unwrap();
    assert_eq!((policy.version, policy.generation), (1, 1));
    assert_eq!(requested(&policy), [("blue".into(), 100), ("green".into(), 0)]);
    let conditions = &policy.status.as_ref().unwrap().conditions;
    assert_eq!((conditions[0].r#type.as_str(), conditions[0].status()), ("Accepted", api::ConditionStatus::True));
    assert_eq!(conditions[3].status(), api::ConditionStatus::Unknown);
    assert!(
        created.warnings[0].contains("cluster blue: no agent of this cluster was ever seen"),
        "{:?}",
        created.warnings
    );

    assert_eq!(hub.apply(&text).await.unwrap().outcome(), api::ApplyOutcome::Unchanged);
    let request = api::GetPolicyRequest { policy: Some(policy_ref("web")) };
    let answer = hub.policies().get_policy(request.clone()).await.unwrap();
    assert!(answer.metadata().get("switchyard-picture-age-ms").is_some());
    assert_eq!(answer.into_inner().policy.unwrap(), policy);

    let changed = set(&hub, set_weights("web", &[("green", 40)])).await.unwrap();
    assert_eq!((changed.version, changed.generation), (2, 1));
    assert_eq!(requested(&changed), [("blue".into(), 100), ("green".into(), 40)]);
    // Whoever reads after the answer finds what was written.
    let read = hub.policies().get_policy(request.clone()).await.unwrap().into_inner().policy.unwrap();
    assert_eq!(read.version, 2);

    let deleted = hub.delete("web").await.unwrap();
    assert!(deleted.deleting_since.is_some());
    let refused = hub.apply(&text.replace("100", "99")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("being deleted"), "{refused:?}");
    let uid = deleted.uid.parse().unwrap();
    let fence = store_support::fence(&hub.store).await;
    assert!(hub.store.policy_forget(fence, &store_support::key("web"), &uid).await.unwrap());
    eventually("the policy to be gone", async || hub.policies().get_policy(request.clone()).await.err()).await;
    let gone = hub.policies().get_policy(request).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    hub.stop().await;
}

#[tokio::test]
async fn the_same_request_id_gives_the_first_answer_and_another_content_is_refused() {
    let hub = hub().await;
    let request = api::ApplyPolicyRequest {
        request_id: "deploy-42".to_owned(),
        manifest: manifest("web", &[("blue", 100)]),
        ..api::ApplyPolicyRequest::default()
    };
    let calls = (0..20).map(|_| {
        let (mut client, request) = (hub.policies(), request.clone());
        async move { client.apply_policy(request).await.unwrap().into_inner() }
    });
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.outcome(), api::ApplyOutcome::Created);
        assert_eq!(answer.policy.unwrap().version, 1);
    }
    let other = api::ApplyPolicyRequest { manifest: manifest("web", &[("blue", 99)]), ..request.clone() };
    let refused = hub.policies().apply_policy(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("deploy-42"), "{refused:?}");
    let without = api::ApplyPolicyRequest { request_id: String::new(), ..request };
    let refused = hub.policies().apply_policy(without).await.unwrap_err();
    assert_eq!(violations(&refused)[0].field, "request_id");
    hub.stop().await;
}

#[tokio::test]
async fn a_stale_version_is_a_conflict_that_names_the_present_one() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 100), ("green", 0)])).await.unwrap();
    set(&hub, set_weights("web", &[("green", 1)])).await.unwrap();
    for dry_run in [false, true] {
        let stale = api::SetWeightsRequest { expected_version: 1, dry_run, ..set_weights("web", &[("green", 2)]) };
        let status = set(&hub, stale).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        let conflict = api::VersionConflict::decode(status.details()).unwrap();
        assert_eq!((conflict.expected_version, conflict.present_version), (1, 2));
    }
    let fresh = api::SetWeightsRequest { expected_version: 2, ..set_weights("web", &[("green", 2)]) };
    assert_eq!(set(&hub, fresh).await.unwrap().version, 3);
    hub.stop().await;
}

#[tokio::test]
async fn bad_policies_are_refused_with_field_value_and_remedy() {
    let hub = hub().await;
    let good = manifest("web", &[("blue", 100), ("green", 0)]);
    let six: Vec<(String, u32)> = (0..6).map(|i| (format!("c{i}"), 1)).collect();
    let six: Vec<(&str, u32)> = six.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    let cases = [
        (good.replace("weight: 100", "weight: 1000"), "spec.clusters[0].weight", "1000"),
        (good.replace("weight: 100", "weight: 0"), "spec.clusters", "0"),
        (manifest("web", &six), "spec.clusters", "c0"),
        (good.replace("blue", "Blue"), "spec.clusters[0].name", "Blue"),
        (good.replace("port: 80}", "port: 0}"), "spec.listener.port", "0"),
        (good.replace("{name: web, port: http}", "{name: web, port: -3}"), "spec.backend.service", "-3"),
        (good.replace("hostnames", "hostname"), "spec.match", "hostname"),
        (good.replace("kind: Cluster", "kind: Klaster"), "kind", "KlasterTrafficPolicy"),
        (good.replace("{name: web, namespace: shop}", "{name: we_b, namespace: shop}"), "metadata.name", "we_b"),
        ("}".to_owned(), "manifest", "}"),
        (format!("{good}---\n{good}"), "manifest", "---"),
        (format!("{good}#{}", "x".repeat(64 * 1024)), "manifest", "bytes"),
    ];
    for (text, field, value) in cases {
        let status = hub.apply(&text).await.unwrap_err();
        let found = violations(&status);
        let named = found.iter().find(|violation| violation.field.starts_with(field));
        let named = named.unwrap_or_else(|| panic!("{field} is not named in {found:?}"));
        let whole = format!("{} {}", named.value, named.problem);
        assert!(whole.contains(value), "{field}: {named:?}");
        assert!(!named.remedy.is_empty() && status.message().contains(&named.remedy), "{status:?}");
    }
    // Twenty names of two hundred odd characters: all faults do not fit into the headers, and the answer still arrives.
    let names: Vec<(String, u32)> = (0..20).map(|i| (format!("{i}{}", "ä".repeat(200)), 5000)).collect();
    let names: Vec<(&str, u32)> = names.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    let status = hub.apply(&manifest("web", &names)).await.unwrap_err();
    assert!(violations(&status).len() > 5, "{status:?}");
    let all = hub.policies().list_policies(api::ListPoliciesRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.policies, []);
    hub.stop().await;
}

#[tokio::test]
async fn what_is_fixed_for_the_life_of_a_policy_cannot_change() {
    let hub = hub().await;
    let good = manifest("web", &[("blue", 100)]);
    hub.apply(&good).await.unwrap();
    for dry_run in [false, true] {
        let request = api::ApplyPolicyRequest {
            request_id: format!("r-{dry_run}"),
            manifest: good.replace("loadBalancer: shared", "loadBalancer: another"),
            dry_run,
            ..api::ApplyPolicyRequest::default()
        };
        let status = hub.policies().apply_policy(request).await.unwrap_err();
        assert_eq!(violations(&status)[0].field, "spec.listener");
    }
    hub.stop().await;
}

#[tokio::test]
async fn weights_of_unknown_clusters_and_out_of_range_are_all_named() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 100), ("green", 0)])).await.unwrap();
    let refused = set(&hub, set_weights("web", &[("red", 1), ("blue", 1000)])).await.unwrap_err();
    let fields: Vec<String> = violations(&refused).into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["weights[blue]", "weights"]);
    let refused = set(&hub, set_weights("web", &[("blue", 0)])).await.unwrap_err();
    assert!(refused.message().contains("503"), "{refused:?}");
    let refused = set(&hub, set_weights("web", &[])).await.unwrap_err();
    assert_eq!(violations(&refused)[0].field, "weights");
    let many: Vec<(String, u32)> = (0..101).map(|i| (format!("c{i}"), 1)).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    let refused = set(&hub, set_weights("web", &many)).await.unwrap_err();
    assert_eq!(violations(&refused)[0].value, "101");
    let refused = set(&hub, set_weights("none", &[("blue", 1)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let nameless = api::SetWeightsRequest { policy: None, ..set_weights("web", &[("blue", 1)]) };
    assert_eq!(violations(&set(&hub, nameless).await.unwrap_err())[0].field, "policy.namespace");
    hub.stop().await;
}

#[tokio::test]
async fn a_dry_run_shows_the_change_and_its_plan_and_stores_nothing() {
    let hub = hub().await;
    let text = manifest("web", &[("blue", 100), ("green", 0)]);
    let request = api::ApplyPolicyRequest { manifest: text.clone(), dry_run: true, ..Default::default() };
    hub.aws_was_read();
    let answer = hub.policies().apply_policy(request).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), api::ApplyOutcome::Created);
    let plan = answer.plan.unwrap();
    assert!(!plan.notes.is_empty(), "there is no load balancer at all, and the plan says so: {plan:?}");
    let list = hub.policies().list_policies(api::ListPoliciesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.policies, []);

    hub.apply(&text).await.unwrap();
    let dry = api::SetWeightsRequest { dry_run: true, ..set_weights("web", &[("green", 50)]) };
    let answer = hub.policies().set_weights(dry).await.unwrap().into_inner();
    assert!(answer.plan.is_some());
    assert_eq!(requested(&answer.policy.unwrap())[1], ("green".into(), 50));
    let dry = api::DeletePolicyRequest { policy: Some(policy_ref("web")), dry_run: true, ..Default::default() };
    let answer = hub.policies().delete_policy(dry).await.unwrap().into_inner();
    assert!(answer.policy.unwrap().deleting_since.is_some());
    let request = api::GetPolicyRequest { policy: Some(policy_ref("web")) };
    let policy = hub.policies().get_policy(request).await.unwrap().into_inner().policy.unwrap();
    assert_eq!((policy.version, policy.deleting_since), (1, None));
    assert_eq!(requested(&policy)[1], ("green".into(), 0));

    let plan = api::GetPlanRequest { policy: Some(policy_ref("web")) };
    let plan = hub.policies().get_plan(plan).await.unwrap().into_inner().plan.unwrap();
    assert!(plan.made_at.is_some());
    let missing = api::GetPlanRequest { policy: Some(policy_ref("none")) };
    assert_eq!(hub.policies().get_plan(missing).await.unwrap_err().code(), Code::NotFound);
    hub.stop().await;
}

#[tokio::test]
async fn no_plan_is_made_before_aws_was_read() {
    let hub = hub().await;
    let text = manifest("web", &[("blue", 100), ("green", 0)]);
    hub.apply(&text).await.unwrap();
    let apply = || api::ApplyPolicyRequest { manifest: text.clone(), dry_run: true, ..Default::default() };
    let weights = || api::SetWeightsRequest { dry_run: true, ..set_weights("web", &[("green", 50)]) };
    let plan = api::GetPlanRequest::default;
    let answers = [
        hub.policies().apply_policy(apply()).await.err(),
        hub.policies().set_weights(weights()).await.err(),
        hub.policies().get_plan(plan()).await.err(),
    ];
    for answer in answers {
        let status = answer.expect("a plan over nothing");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("AWS was not read by this replica yet"), "{status:?}");
    }
    // A fault of the caller's is told all the same.
    let unknown = api::SetWeightsRequest { dry_run: true, ..set_weights("web", &[("red", 1)]) };
    assert_eq!(set(&hub, unknown).await.unwrap_err().code(), Code::InvalidArgument);
    hub.aws_was_read();
    hub.policies().apply_policy(apply()).await.unwrap();
    hub.policies().set_weights(weights()).await.unwrap();
    hub.policies().get_plan(plan()).await.unwrap();
    hub.stop().await;
}

async fn next(stream: &mut Streaming<api::WatchPoliciesResponse>) -> (api::WatchEvent, String, u64) {
    let event = timeout(PATIENCE, stream.message()).await.expect("no event").unwrap().unwrap();
    let policy = event.policy.clone().unwrap_or_default();
    (event.event(), policy.r#ref.unwrap_or_default().name, policy.version)
}

use api::WatchEvent::{Changed, Deleted, Present, Synced};

#[tokio::test]
async fn a_watch_gives_the_present_then_each_change_and_the_end_of_a_policy() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let all = api::WatchPoliciesRequest::default();
    let one = api::WatchPoliciesRequest { policy: Some(policy_ref("web")), ..Default::default() };
    let mut all = hub.policies().watch_policies(all).await.unwrap().into_inner();
    let mut one = hub.policies().watch_policies(one).await.unwrap().into_inner();
    for stream in [&mut all, &mut one] {
        assert_eq!(next(stream).await, (Present, "web".into(), 1));
        assert_eq!(next(stream).await, (Synced, String::new(), 0));
    }
    hub.apply(&manifest("api", &[("blue", 1)])).await.unwrap();
    assert_eq!(next(&mut all).await, (Changed, "api".into(), 1));
    let deleted = hub.delete("web").await.unwrap();
    let fence = store_support::fence(&hub.store).await;
    hub.store.policy_forget(fence, &store_support::key("web"), &deleted.uid.parse().unwrap()).await.unwrap();
    for stream in [&mut all, &mut one] {
        // The mark for deletion may be skipped: only the latest is told.
        let mut event = next(stream).await;
        if event == (Changed, "web".into(), 2) {
            event = next(stream).await;
        }
        assert_eq!((event.0, event.1), (Deleted, "web".into()));
    }
    let bad = api::WatchPoliciesRequest { namespace: "Shop".to_owned(), policy: None };
    assert_eq!(violations(&hub.policies().watch_policies(bad).await.unwrap_err())[0].field, "namespace");
    hub.stop().await;
    assert_eq!(timeout(PATIENCE, all.message()).await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_watcher_hears_that_a_cluster_went_away() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    agent.sync(&set, "web", &["10.0.0.1"]).await;
    let request = api::WatchPoliciesRequest::default();
    let mut stream = hub.policies().watch_policies(request).await.unwrap().into_inner();
    drop(agent);
    let stale = async {
        loop {
            let event = stream.message().await.unwrap().unwrap();
            let clusters = event.policy.and_then(|policy| policy.status).unwrap_or_default().clusters;
            if clusters.iter().any(|cluster| cluster.link() == api::ClusterLink::Stale) {
                return;
            }
        }
    };
    timeout(PATIENCE, stale).await.expect("the watcher never heard of it");
    hub.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_that_hold_each_item_once() {
    let hub = hub().await;
    let names: Vec<String> = (0..7).map(|i| format!("p{i}")).collect();
    for name in &names {
        hub.apply(&manifest(name, &[("blue", 1)])).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request = api::ListPoliciesRequest { page_size: 3, page_token: token, ..Default::default() };
        let page = hub.policies().list_policies(request).await.unwrap().into_inner();
        assert!(page.policies.len() <= 3);
        seen.extend(page.policies.into_iter().map(|policy| policy.r#ref.unwrap().name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, names);
    let elsewhere = api::ListPoliciesRequest { namespace: "other".to_owned(), ..Default::default() };
    assert_eq!(hub.policies().list_policies(elsewhere).await.unwrap().into_inner().policies, []);
    for bad in [
        api::ListPoliciesRequest { page_token: "zz".to_owned(), ..Default::default() },
        api::ListPoliciesRequest { page_size: 501, ..Default::default() },
    ] {
        violations(&hub.policies().list_policies(bad).await.unwrap_err());
    }

    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    let addresses: Vec<String> = (1..=25).map(|i| format!("10.0.0.{i}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    agent.sync(&set, "p3", &addresses).await;
    eventually("the endpoints", async || (hub.endpoints("blue").await.len() == 25).then_some(())).await;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = api::ListEndpointsRequest {
            service: "p3".to_owned(),
            page_size: 10,
            page_token: token,
            ..Default::default()
        };
        let page = hub.clusters().list_endpoints(request).await.unwrap().into_inner();
        seen.extend(page.endpoints.into_iter().map(|endpoint| endpoint.address));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, addresses);
    let clusters = hub.clusters().list_clusters(api::ListClustersRequest {}).await.unwrap().into_inner().clusters;
    assert_eq!((clusters[0].endpoints, clusters[0].agent_version.as_str()), (25, "0.1.0"));
    assert!(clusters[0].last_seen.is_some());
    hub.stop().await;
}

#[tokio::test]
async fn endpoints_of_a_cluster_that_nobody_knows_are_not_found_and_the_known_ones_are_named() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1), ("green", 0)])).await.unwrap();
    let of = |cluster: &str| api::ListEndpointsRequest { cluster: cluster.to_owned(), ..Default::default() };
    let status = hub.clusters().list_endpoints(of("zz")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "there is no cluster zz; the hub knows blue, green");
    // Named by a policy, and its agent never came: known, and empty.
    assert_eq!(hub.clusters().list_endpoints(of("green")).await.unwrap().into_inner().endpoints, []);
    // Announced by its agent, and no policy names it.
    let mut agent = Agent::connect(&hub, hello("red")).await;
    agent.welcome().await;
    eventually("red to be known", async || hub.clusters().list_endpoints(of("red")).await.ok().map(drop)).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_page_of_large_policies_ends_before_it_is_too_large_to_arrive() {
    let hub = hub().await;
    // A listener that is named by 50 tags of 256 letters with three bytes each.
    let tags: Vec<String> = (0..50).map(|n| format!("t{n}: {}", "\u{65e5}".repeat(256))).collect();
    let large = format!("tags: {{{}}}", tags.join(", "));
    let names: Vec<String> = (0..60).map(|n| format!("p{n:02}")).collect();
    for name in &names {
        let manifest = manifest(name, &[("blue", 1)]).replace("loadBalancer: shared", &large);
        hub.apply(&manifest).await.unwrap();
    }
    let (mut seen, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let request = api::ListPoliciesRequest { page_size: 500, page_token: token, ..Default::default() };
        let page = hub.policies().list_policies(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < 2_200_000 && !page.policies.is_empty(), "{}", page.encoded_len());
        pages += 1;
        seen.extend(page.policies.into_iter().map(|policy| policy.r#ref.unwrap().name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert!(pages > 1, "{pages}");
    assert_eq!(seen, names, "each once, in their order");
    hub.stop().await;
}

#[tokio::test]
async fn pages_of_endpoints_go_on_behind_their_token_across_services_and_clusters() {
    let hub = hub().await;
    for name in ["api", "web"] {
        hub.apply(&manifest(name, &[("blue", 1), ("green", 1)])).await.unwrap();
    }
    let mut agents = Vec::new();
    let mut expected = Vec::new();
    for cluster in ["blue", "green"] {
        let mut agent = Agent::connect(&hub, hello(cluster)).await;
        agent.welcome().await;
        agent.watch_set().await;
        for service in ["api", "web"] {
            let addresses: Vec<String> = (1..=4).map(|i| format!("10.0.{}.{i}", expected.len())).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let mut report = grpc_support::changes(service, &addresses);
            // One that is gone again is on no page.
            report.tombstones.push(grpc_support::tombstone(service, "10.0.99.9"));
            let seq = agent.changes(report).await;
            agent.acked(seq).await;
            expected.extend(addresses.iter().map(|a| (cluster.to_owned(), service.to_owned(), (*a).to_owned())));
        }
        agents.push(agent);
    }
    let pages = async |filter: api::ListEndpointsRequest| {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let request = api::ListEndpointsRequest { page_size: 3, page_token: token, ..filter.clone() };
            let page = hub.clusters().list_endpoints(request).await.unwrap().into_inner();
            assert!(page.endpoints.len() <= 3);
            seen.extend(page.endpoints.into_iter().map(|e| (e.cluster, e.service, e.address)));
            token = page.next_page_token;
            if token.is_empty() {
                return seen;
            }
        }
    };
    let all = api::ListEndpointsRequest::default();
    eventually("every endpoint", async || (pages(all.clone()).await == expected).then_some(())).await;
    let web = api::ListEndpointsRequest { service: "web".to_owned(), ..Default::default() };
    let of_web: Vec<_> = expected.iter().filter(|(_, service, _)| service == "web").cloned().collect();
    assert_eq!(pages(web).await, of_web);
    let green = api::ListEndpointsRequest { cluster: "green".to_owned(), ..Default::default() };
    let of_green: Vec<_> = expected.iter().filter(|(cluster, ..)| cluster == "green").cloned().collect();
    assert_eq!(pages(green).await, of_green);
    // Hexadecimal and of seven parts, and still none of ours: the cluster's name is empty.
    let forged = api::ListEndpointsRequest { page_token: "0a0a0a0a0a0a".to_owned(), ..Default::default() };
    assert_eq!(violations(&hub.clusters().list_endpoints(forged).await.unwrap_err())[0].field, "page_token");
    drop(agents);
    hub.stop().await;
}

#[tokio::test]
async fn a_service_that_a_cluster_does_not_have_is_a_warning() {
    let hub = hub().await;
    let text = manifest("web", &[("blue", 1)]);
    hub.apply(&text).await.unwrap();
    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    agent.watch_set().await;
    let mut missing = grpc_support::changes("web", &[]);
    missing.services[0].condition = switchyard_proto::agent::v1::ServiceCondition::NotFound.into();
    let seq = agent.changes(missing).await;
    agent.acked(seq).await;
    let warned = eventually("the warning", async || {
        let warnings = hub.apply(&text).await.unwrap().warnings;
        warnings.into_iter().find(|warning| warning.contains("no such Service"))
    })
    .await;
    assert_eq!(warned, "cluster blue: Service shop/web: there is no such Service, and its share waits for targets");
    hub.stop().await;
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let hub = hub().await;
    let mut health = HealthClient::new(hub.channel.clone());
    let of_callers = ["Policy", "Cluster", "Shift", "Safety", "Audit"];
    let mut services: Vec<String> = of_callers.iter().map(|name| format!("switchyard.api.v1.{name}Service")).collect();
    services.push("switchyard.agent.v1.AgentService".to_owned());
    for service in services.iter().map(String::as_str).chain([""]) {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(hub.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("not a list: {answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in &services {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    // Reflection's stream ends before the hub does.
    drop(answers);
    hub.stop().await;
}

#[tokio::test]
async fn a_message_past_the_size_limit_is_refused_and_the_hub_goes_on() {
    let hub = hub().await;
    let status = hub.apply(&"x".repeat(5 * 1024 * 1024)).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    hub.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    assert!(hub.metrics.encoded().unwrap().contains(r#"grpc_calls_total{operation="ApplyPolicy",outcome="ok"} 1"#));
    hub.stop().await;
}

#[tokio::test]
async fn everyone_is_in_the_audit_log_with_address_and_reason() {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 1), ("green", 0)])).await.unwrap();
    let request =
        api::SetWeightsRequest { reason: "upgrade of blue".to_owned(), ..set_weights("web", &[("green", 9)]) };
    set(&hub, request).await.unwrap();
    let raw = sqlx::PgPool::connect(&hub.url).await.unwrap();
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("select action, actor, reason from audit order by id").fetch_all(&raw).await.unwrap();
    assert_eq!(rows[1].0, "set-weights");
    assert_eq!(rows[1].1, "development");
    assert_eq!(rows[1].2, "upgrade of blue");
    let long = api::SetWeightsRequest { reason: "x".repeat(1025), ..set_weights("web", &[("green", 8)]) };
    assert_eq!(violations(&set(&hub, long).await.unwrap_err())[0].field, "reason");
    hub.stop().await;
}

/// Two replicas over one store: what one takes the other shows, by notice and not by the two-second timer alone.
#[tokio::test]
async fn what_one_replica_takes_the_other_one_shows() {
    let first = hub().await;
    let second = grpc_support::hub_on(&first.url).await;
    let request = api::WatchPoliciesRequest::default();
    let mut stream = second.policies().watch_policies(request).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.0, Synced);
    first.apply(&manifest("web", &[("blue", 1)])).await.unwrap();
    assert_eq!(next(&mut stream).await, (Changed, "web".into(), 1));
    tokio::time::timeout(Duration::from_secs(10), first.stop()).await.unwrap();
    second.stop().await;
}
