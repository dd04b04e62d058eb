//! Writes to the sandbox's API server, through the unmodified kube client: conflicts, patches, server-side apply, deletion.

mod kube_support;

use futures::StreamExt;
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::PartialObjectMeta;
use kube::core::response::Status;
use kube::runtime::events::{Event as RecordedEvent, EventType, Recorder};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Discovery, Resource, ResourceExt};
use kube_support::{World, eventually, fetch, next};
use serde_json::{Value, json};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn refused<T: std::fmt::Debug>(result: kube::Result<T>) -> Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn service(name: &str) -> Service {
    parse(json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": name}}}))
}

fn policies(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("switchyard.dev", "v1alpha1", "ClusterTrafficPolicy");
    Api::namespaced_with(client, "default", &ApiResource::from_gvk_with_plural(&kind, "clustertrafficpolicies"))
}

#[tokio::test]
async fn a_stale_replace_conflicts_and_a_fresh_one_does_not() {
    let world = World::start().await;
    let api: Api<Service> = Api::namespaced(world.client("blue").await, "default");
    let first = api.create(&PostParams::default(), &service("web")).await.unwrap();
    let again = refused(api.create(&PostParams::default(), &service("web")).await);
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));
    let mut fresh = first.clone();
    fresh.labels_mut().insert("a".into(), "b".into());
    let second = api.replace("web", &PostParams::default(), &fresh).await.unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    let stale = refused(api.replace("web", &PostParams::default(), &fresh).await);
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    let same = api.replace("web", &PostParams::default(), &second).await.unwrap();
    assert_eq!(same.resource_version(), second.resource_version(), "nothing changed, so nothing was written");
    assert_eq!(refused(api.get("none").await).code, 404);
}

#[tokio::test]
async fn two_managers_that_apply_the_same_field_conflict_until_one_forces() {
    let world = World::start().await;
    let api: Api<Service> = Api::namespaced(world.client("blue").await, "default");
    let patch = |app: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "annotations": {"team": app}},
               "spec": {"ports": [{"port": 80, "name": "http"}], "selector": {"app": "web"}}})
    };
    let apply = |manager: &str| PatchParams::apply(manager);
    api.patch("web", &apply("one"), &Patch::Apply(patch("a"))).await.unwrap();
    let refusal = refused(api.patch("web", &apply("two"), &Patch::Apply(patch("b"))).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (409, "Conflict"));
    let causes = refusal.details.unwrap().causes;
    assert_eq!(causes[0].field, ".metadata.annotations.team");
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    let forced = api.patch("web", &apply("two").force(), &Patch::Apply(patch("b"))).await.unwrap();
    assert_eq!(forced.annotations()["team"], "b");
    let repeated = api.patch("web", &apply("two"), &Patch::Apply(patch("b"))).await.unwrap();
    assert_eq!(repeated.resource_version(), forced.resource_version());
    // Left out by its owner, the field goes; what both applied stays.
    let without = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}});
    let after = api.patch("web", &apply("two"), &Patch::Apply(without)).await.unwrap();
    assert!(after.annotations().is_empty());
    assert_eq!(after.spec.unwrap().ports.unwrap().len(), 1);
    let managers: Vec<_> = after.metadata.managed_fields.unwrap().into_iter().filter_map(|m| m.manager).collect();
    assert_eq!(managers, ["one"]);
}

#[tokio::test]
async fn an_apply_with_yaml_creates_and_a_dry_run_does_not() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let api: Api<Lease> = Api::namespaced(client.clone(), "default");
    let yaml =
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata:\n  name: hub\nspec:\n  holderIdentity: one\n";
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/hub";
    let send = |query: &str| {
        let request = http::Request::patch(format!("{path}?{query}"))
            .header("content-type", "application/apply-patch+yaml")
            .body(yaml.as_bytes().to_vec())
            .unwrap();
        client.request::<Lease>(request)
    };
    send("fieldManager=me&dryRun=All").await.unwrap();
    assert!(api.get_opt("hub").await.unwrap().is_none());
    assert_eq!(refused(send("dryRun=All").await).code, 422, "an apply names its manager");
    send("fieldManager=me").await.unwrap();
    assert_eq!(api.get("hub").await.unwrap().spec.unwrap().holder_identity.as_deref(), Some("one"));
}

#[tokio::test]
async fn the_status_of_a_policy_is_written_apart_from_its_spec() {
    let world = World::start().await;
    let api = policies(world.client("blue").await);
    let policy = json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "checkout"}, "spec": {"order": 100}, "status": {"smuggled": true}});
    let made = api.create(&PostParams::default(), &parse(policy)).await.unwrap();
    assert_eq!((made.metadata.generation, made.data.get("status")), (Some(1), None));
    let status = json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy", "spec": {"order": 1},
        "status": {"conditions": [{"type": "Accepted", "status": "True"}]}});
    let shown = api.patch_status("checkout", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!(shown.data["spec"]["order"], 100);
    assert_eq!(shown.metadata.generation, Some(1));
    let applied = json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "status": {"conditions": [{"type": "Programmed", "status": "False"}]}});
    let shown = api.patch_status("checkout", &PatchParams::apply("agent"), &Patch::Apply(&applied)).await.unwrap();
    assert_eq!(shown.data["status"]["conditions"].as_array().unwrap().len(), 2);
    let spec = json!({"spec": {"order": 200}, "status": {"conditions": []}});
    let shown = api.patch("checkout", &PatchParams::default(), &Patch::Merge(&spec)).await.unwrap();
    assert_eq!(shown.metadata.generation, Some(2));
    assert_eq!(shown.data["status"]["conditions"].as_array().unwrap().len(), 2);
    let strategic = api.patch("checkout", &PatchParams::default(), &Patch::Strategic(&spec)).await;
    assert_eq!(refused(strategic).code, 415, "custom resources know no strategic merge");
}

#[tokio::test]
async fn a_policy_is_replaced_only_at_a_version() {
    let world = World::start().await;
    let api = policies(world.client("blue").await);
    let policy = |version: Option<String>| {
        parse::<DynamicObject>(json!({"apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
            "metadata": {"name": "checkout", "resourceVersion": version}, "spec": {"order": 7}}))
    };
    let made = api.create(&PostParams::default(), &policy(None)).await.unwrap();
    let refusal = refused(api.replace("checkout", &PostParams::default(), &policy(None)).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (422, "Invalid"));
    assert!(refusal.message.contains("metadata.resourceVersion"), "{}", refusal.message);
    api.replace("checkout", &PostParams::default(), &policy(made.resource_version())).await.unwrap();
}

#[tokio::test]
async fn a_recorder_writes_events_and_counts_repetitions() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    let service = api.create(&PostParams::default(), &service("web")).await.unwrap();
    let recorder = Recorder::new(client.clone(), "switchyard-agent".into());
    let event = RecordedEvent {
        type_: EventType::Warning,
        reason: "NoEndpoints".into(),
        note: Some("nobody stands behind this Service".into()),
        action: "Watch".into(),
        secondary: None,
    };
    for _ in 0..2 {
        recorder.publish(&event, &service.object_ref(&())).await.unwrap();
    }
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client, "default");
    let found = events.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].reason.as_deref(), Some("NoEndpoints"));
    assert_eq!(found[0].series.as_ref().map(|s| s.count), Some(2));
}

#[tokio::test]
async fn a_readiness_gate_opened_by_a_status_patch_makes_the_pod_ready() {
    let world = World::start().await;
    let gate = "switchyard.dev/target-health";
    world.web("blue", json!({"replicas": 1, "readiness_gates": [gate]})).await;
    let api: Api<Pod> = Api::namespaced(world.client("blue").await, "shop");
    let condition = |pod: &Pod, kind: &str| {
        let all = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        all.into_iter().find(|c| c.type_ == kind).map(|c| c.status)
    };
    let pod = eventually("the containers are ready", || async {
        let found = api.list(&ListParams::default()).await.unwrap().items;
        let ready = found.into_iter().find(|p| condition(p, "ContainersReady").as_deref() == Some("True"));
        ready.ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert_eq!(condition(&pod, "Ready").as_deref(), Some("False"));
    let patch = json!({"status": {"conditions": [{"type": gate, "status": "True"}]}});
    api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
    eventually("the pod is ready", || async {
        let pod = api.get(&pod.name_any()).await.unwrap();
        if condition(&pod, "Ready").as_deref() == Some("True") { Ok(()) } else { Err(format!("{:?}", pod.status)) }
    })
    .await;
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_removed() {
    let world = World::start().await;
    let api: Api<Lease> = Api::namespaced(world.client("blue").await, "default");
    let held: Lease = parse(json!({"metadata": {"name": "held", "finalizers": ["switchyard.dev/hold"]}}));
    api.create(&PostParams::default(), &held).await.unwrap();
    let marked = api.delete("held", &DeleteParams::default()).await.unwrap().left().expect("the object is the answer");
    assert!(marked.metadata.deletion_timestamp.is_some());
    let release = json!({"metadata": {"finalizers": null}});
    api.patch("held", &PatchParams::default(), &Patch::Merge(&release)).await.unwrap();
    assert!(api.get_opt("held").await.unwrap().is_none());
}

#[tokio::test]
async fn a_deletion_with_the_wrong_uid_is_refused() {
    let world = World::start().await;
    let api: Api<Service> = Api::namespaced(world.client("blue").await, "default");
    let made = api.create(&PostParams::default(), &service("web")).await.unwrap();
    let of = |uid: &str| DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: Some(uid.into()), resource_version: None }),
        ..DeleteParams::default()
    };
    assert_eq!(refused(api.delete("web", &of("another")).await).code, 409);
    let answer = api.delete("web", &of(&made.uid().unwrap())).await.unwrap().left().expect("a Service is the answer");
    assert_eq!(answer.uid(), made.uid());
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it() {
    let world = World::start().await;
    world.web("blue", json!({"replicas": 2})).await;
    world.settled("blue").await;
    let client = world.client("blue").await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    let late: Api<Service> = Api::namespaced(client.clone(), "shop");
    let refusal = refused(late.create(&PostParams::default(), &service("late")).await);
    assert!(matches!(refusal.code, 403 | 404), "{refusal:?}");
    eventually("the namespace is gone", || async {
        let left = namespaces.get_opt("shop").await.unwrap();
        left.map_or(Ok(()), |n| Err(format!("{:?}", n.status)))
    })
    .await;
    assert!(Api::<Pod>::namespaced(client, "shop").list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn objects_without_their_namespace_or_required_fields_are_refused() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let elsewhere: Api<Service> = Api::namespaced(client.clone(), "nowhere");
    assert_eq!(refused(elsewhere.create(&PostParams::default(), &service("web")).await).code, 404);
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let empty: Pod = parse(json!({"metadata": {"name": "x"}, "spec": {"containers": []}}));
    assert_eq!(refused(pods.create(&PostParams::default(), &empty).await).reason, "Invalid");
    let deployments: Api<Deployment> = Api::namespaced(client, "default");
    let unselected: Deployment =
        parse(json!({"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "app"}]}}}}));
    assert_eq!(refused(deployments.create(&PostParams::default(), &unselected).await).code, 422);
}

#[tokio::test]
async fn a_metadata_watcher_sees_metadata_only() {
    let world = World::start().await;
    let api: Api<Service> = Api::namespaced(world.client("blue").await, "default");
    api.create(&PostParams::default(), &service("web")).await.unwrap();
    let reduced: Api<PartialObjectMeta<Service>> = Api::namespaced(world.client("blue").await, "default");
    let mut stream = watcher(reduced, watcher::Config::default()).boxed();
    let mut names = Vec::new();
    loop {
        match next(&mut stream).await.unwrap() {
            Event::InitApply(object) => names.push(object.name_any()),
            Event::InitDone => break,
            _ => {}
        }
    }
    assert_eq!(names, ["web"]);
    assert_eq!(api.get_metadata("web").await.unwrap().name_any(), "web");
}

#[tokio::test]
async fn discovery_lists_every_kind_and_deletecollection_empties_one() {
    let world = World::start().await;
    let client = world.client("blue").await;
    let found = Discovery::new(client.clone()).run().await.unwrap();
    let (resource, _) = found
        .resolve_gvk(&GroupVersionKind::gvk("switchyard.dev", "v1alpha1", "ClusterTrafficPolicy"))
        .expect("the policy kind is discovered");
    assert_eq!(resource.plural, "clustertrafficpolicies");
    assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    let api: Api<Service> = Api::namespaced(client, "default");
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &service(name)).await.unwrap();
    }
    api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn broken_requests_are_answered_with_a_status_object() {
    let world = World::start().await;
    let base = &world.sandbox.info().clusters["blue"].api_url;
    for (method, path, body, code) in [
        (Method::GET, "/api/v1/pods?limit=many", Value::Null, 400),
        (Method::GET, "/api/v1/pods?labelSelector=a%20in%20b", Value::Null, 400),
        (Method::GET, "/api/v1/pods?fieldSelector=spec.color%3Dred", Value::Null, 400),
        (Method::GET, "/api/v1/pods?watch=1&sendInitialEvents=true", Value::Null, 422),
        (Method::GET, "/api/v1/pods?resourceVersionMatch=Exact", Value::Null, 422),
        (Method::GET, "/api/v9/pods", Value::Null, 404),
        (Method::POST, "/api/v1/pods", json!({}), 405),
        (Method::POST, "/api/v1/namespaces/default/pods", json!([1]), 400),
        (Method::PATCH, "/api/v1/namespaces/default/pods/x", json!({}), 415),
        (Method::POST, "/api/v1/namespaces/default/services", json!({"kind": "Pod", "metadata": {"name": "x"}}), 400),
    ] {
        let (status, text) = fetch(method.clone(), &format!("{base}{path}"), Some(body)).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (status, &answer["kind"], &answer["code"]),
            (code, &json!("Status"), &json!(code)),
            "{method} {path}"
        );
    }
}
