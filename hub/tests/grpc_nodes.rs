//! Nodes as targets over real gRPC: which agents are asked for them, what is refused, and what callers are told.

mod grpc_support;
mod store_support;

use grpc_support::{Agent, Hub, endpoint, eventually, hello, hub, manifest, service_ref};
use switchyard_proto::{
    agent::v1::{self as agent, agent_message::Message},
    api::v1::{self as api, ClusterLink},
};
use tonic::Code;

const INSTANCE: &str = "i-0123456789abcdef0";

fn for_nodes(name: &str) -> Option<agent::ServiceRef> {
    Some(agent::ServiceRef { target_type: agent::TargetType::Instance.into(), ..service_ref(name).unwrap() })
}

fn nodes_manifest(name: &str, service: &str) -> String {
    let backend = format!("backend: {{service: {{name: {service}, port: http}}, targetType: instance}}");
    manifest(name, &[("blue", 100)]).replace(&format!("backend: {{service: {{name: {name}, port: http}}}}"), &backend)
}

fn node(address: &str) -> agent::Endpoint {
    agent::Endpoint { service: for_nodes("web"), port: 30_080, ..endpoint("web", address) }
}

async fn connected(hub: &Hub) {
    let what = "the picture to show blue as connected";
    eventually(what, async || (hub.link("blue").await == ClusterLink::Connected).then_some(())).await;
}

/// A policy for the pods of `web` and one for its nodes.
async fn two_policies() -> Hub {
    let hub = hub().await;
    hub.apply(&manifest("web", &[("blue", 100)])).await.unwrap();
    hub.apply(&nodes_manifest("web-nodes", "web")).await.unwrap();
    hub
}

#[tokio::test]
async fn an_agent_is_asked_for_nodes_only_when_it_said_that_it_can_report_them() {
    let hub = two_policies().await;
    let mut old = Agent::connect(&hub, agent::Hello { features: vec!["else".to_owned()], ..hello("blue") }).await;
    old.welcome().await;
    let set = old.watch_set().await;
    assert_eq!(set.services, [service_ref("web").unwrap()]);
    old.sync(&set, "web", &["10.0.0.1"]).await;
    connected(&hub).await;
    let warned = hub.apply(&nodes_manifest("web-nodes-2", "web")).await.unwrap().warnings;
    assert!(warned.iter().any(|text| text.contains("blue") && text.contains("too old")), "{warned:?}");
    let mut new = Agent::connect(&hub, hello("blue")).await;
    new.welcome().await;
    let set = new.watch_set().await;
    assert_eq!(set.services, [service_ref("web").unwrap(), for_nodes("web").unwrap()]);
    hub.stop().await;
}

#[tokio::test]
async fn nodes_are_shown_beside_pods_with_what_they_are() {
    let hub = two_policies().await;
    let mut agent = Agent::connect(&hub, hello("blue")).await;
    agent.welcome().await;
    let set = agent.watch_set().await;
    let begin = agent::SnapshotBegin { snapshot_id: "s".to_owned(), watch_set_version: set.version };
    agent.send(Message::SnapshotBegin(begin)).await;
    let state = |service| agent::ServiceState {
        service,
        condition: agent::ServiceCondition::Resolved.into(),
        health_check_node_port: 32_000,
        ..agent::ServiceState::default()
    };
    let gates = ["target-health.switchyard.dev/web", "target-health.switchyard.dev/No Name", "example.com/gate"];
    let mut pod = endpoint("web", "10.0.0.1");
    pod.pod.as_mut().unwrap().readiness_gates = gates.map(str::to_owned).into();
    agent
        .changes(agent::Changes {
            services: vec![state(service_ref("web")), state(for_nodes("web"))],
            upserts: vec![pod, node(INSTANCE)],
            tombstones: Vec::new(),
        })
        .await;
    let end = agent::SnapshotEnd { snapshot_id: "s".to_owned(), service_count: 2, endpoint_count: 2 };
    agent.send(Message::SnapshotEnd(end)).await;
    let live = agent::Live { watch_set_version: set.version };
    let seq = agent.send(Message::Live(live)).await;
    agent.acked(seq).await;
    let listed = async |token: String| {
        let request = api::ListEndpointsRequest { page_size: 1, page_token: token, ..Default::default() };
        hub.clusters().list_endpoints(request).await.unwrap().into_inner()
    };
    let page = eventually("the endpoints", async || {
        Some(listed(String::new()).await).filter(|page| !page.endpoints.is_empty() && !page.next_page_token.is_empty())
    })
    .await;
    let shown = |endpoint: &api::EndpointInfo| (endpoint.target_type.clone(), endpoint.address.clone(), endpoint.port);
    assert_eq!(shown(&page.endpoints[0]), ("ip".to_owned(), "10.0.0.1".to_owned(), 8080));
    let next = listed(page.next_page_token).await;
    assert_eq!(shown(&next.endpoints[0]), ("instance".to_owned(), INSTANCE.to_owned(), 30_080));
    // A refresh may read the endpoints of a report, and its Services only with the next one.
    let inventory = eventually("the Services", async || {
        Some(hub.feed.picture().inventory.clone()).filter(|inventory| inventory.services.len() == 2)
    })
    .await;
    let gates: Vec<_> = inventory.endpoints().flat_map(|(_, endpoint)| endpoint.gates.clone()).collect();
    assert_eq!(gates, ["web".parse().unwrap()], "only our gates, and only those that may name a policy");
    let ports: Vec<_> = inventory.services.values().map(|state| state.health_check_node_port).collect();
    assert_eq!(ports, [Some(32_000), Some(32_000)]);
    connected(&hub).await;
    hub.stop().await;
}

#[tokio::test]
async fn an_address_for_nodes_and_an_instance_for_pods_are_refused() {
    let hub = two_policies().await;
    let upsert = |endpoint| Message::Changes(agent::Changes { upserts: vec![endpoint], ..Default::default() });
    let unknown = agent::ServiceRef { target_type: 9, ..service_ref("web").unwrap() };
    let no_node_port = agent::ServiceState {
        service: service_ref("web"),
        condition: agent::ServiceCondition::NoNodePort.into(),
        ..agent::ServiceState::default()
    };
    let cases = [
        (upsert(node("10.0.0.1")), "changes.upserts[0].address: \"10.0.0.1\" is not the id of an instance"),
        (upsert(endpoint("web", INSTANCE)), "is not an address"),
        (upsert(node("i-0123")), "is not the id of an instance"),
        (
            upsert(agent::Endpoint { service: Some(unknown), ..node(INSTANCE) }),
            "changes.upserts[0].service.target_type",
        ),
        (
            Message::Changes(agent::Changes { services: vec![no_node_port], ..Default::default() }),
            "changes.services[0].condition",
        ),
    ];
    for (message, named) in cases {
        let mut agent = Agent::connect(&hub, hello("blue")).await;
        agent.welcome().await;
        agent.send(message).await;
        let status = agent.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{named}: {status:?}");
        assert!(status.message().contains(named), "{named}: {status:?}");
    }
    hub.stop().await;
}
