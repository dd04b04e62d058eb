//! What is asked of both servers. Each function leaves what the next may build on; objects are named after what they are for.

use serde_json::{Value, json};

use super::{Duel, JSON};

const NS: &str = "/api/v1/namespaces/duel";

fn at(plural: &str) -> String {
    format!("{NS}/{plural}")
}

fn group(group: &str, plural: &str) -> String {
    format!("/apis/{group}/namespaces/duel/{plural}")
}

pub async fn namespaces(duel: &mut Duel) {
    let all = "/api/v1/namespaces";
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "duel", "labels": {"a": "b"}}});
    duel.post("a namespace", all, body.clone()).await;
    duel.post("a namespace that is there", all, body).await;
    duel.get("a namespace that is not there", "/api/v1/namespaces/none").await;
    duel.post(
        "a name that is none",
        all,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "A_b"}}),
    )
    .await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}});
    duel.post("an object in no namespace", "/apis/coordination.k8s.io/v1/namespaces/none/leases", lease).await;
    let patch = json!({"metadata": {"labels": {"a": null, "c": "d"}}});
    duel.patch("labels of a namespace", "/api/v1/namespaces/duel?fieldManager=duel", "merge", patch).await;
}

fn service(name: &str, ports: Value) -> Value {
    let metadata = json!({"name": name, "labels": {"app": "web"}});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": {"app": "web"}, "ports": ports}})
}

pub async fn services(duel: &mut Duel) {
    let all = at("services");
    let web = at("services/web");
    let http = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
    duel.post("a dry run", &format!("{all}?dryRun=All"), service("web", http.clone())).await;
    duel.get("what a dry run left", &web).await;
    duel.post("a service", &format!("{all}?fieldManager=duel"), service("web", http.clone())).await;
    duel.keep("old", "/metadata/resourceVersion");
    duel.keep("ip", "/spec/clusterIP");
    duel.get("the service", &web).await;
    duel.post("a service without ports", &all, service("bad", json!([]))).await;
    duel.post("ports without names", &all, service("bad", json!([{"port": 80}, {"port": 81}]))).await;
    duel.post("a port twice", &all, service("bad", json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}])))
        .await;
    duel.post("a port out of range", &all, service("bad", json!([{"port": 70000}]))).await;
    let mut node_port = service("exposed", json!([{"port": 80}]));
    node_port["spec"]["type"] = json!("NodePort");
    duel.post("a node port", &all, node_port).await;
    let mut balanced = service("balanced", json!([{"port": 80}]));
    balanced["spec"]["type"] = json!("LoadBalancer");
    balanced["spec"]["externalTrafficPolicy"] = json!("Local");
    duel.post("a load balancer", &all, balanced).await;
    let mut headless = service("headless", json!([{"port": 80}]));
    headless["spec"]["clusterIP"] = json!("None");
    duel.post("a headless service", &all, headless).await;
    let more = json!({"spec": {"ports": [{"name": "admin", "port": 81}]}});
    duel.patch("another port by strategic merge", &format!("{web}?fieldManager=duel"), "strategic-merge", more).await;
    let fewer = json!({"spec": {"ports": [{"port": 81, "$patch": "delete"}]}});
    duel.patch("a port less by strategic merge", &format!("{web}?fieldManager=duel"), "strategic-merge", fewer).await;
    duel.patch(
        "nothing new",
        &format!("{web}?fieldManager=duel"),
        "merge",
        json!({"metadata": {"labels": {"app": "web"}}}),
    )
    .await;
    let other = json!({"metadata": {"labels": {"tier": "front"}, "annotations": {"a": "b"}}});
    duel.patch("a label by merge", &format!("{web}?fieldManager=other"), "merge", other).await;
    let good = json!([{"op": "test", "path": "/spec/selector/app", "value": "web"}, {"op": "replace", "path": "/spec/selector/app", "value": "new"}]);
    duel.patch("a selector by JSON patch", &web, "json", good).await;
    let bad = json!([{"op": "test", "path": "/spec/selector/app", "value": "web"}]);
    duel.patch("a JSON patch whose test fails", &web, "json", bad).await;
    let gone = json!([{"op": "remove", "path": "/spec/none"}]);
    duel.patch("a JSON patch of what is not there", &web, "json", gone).await;
    let mut stale = service("web", http.clone());
    stale["metadata"]["resourceVersion"] = json!("$old");
    duel.put("an update of an old version", &web, stale).await;
    let mut update = service("web", json!([{"name": "http", "port": 8080, "targetPort": "http"}]));
    update["spec"]["clusterIP"] = json!("$ip");
    duel.put("an update without a version", &format!("{web}?fieldManager=duel"), update).await;
    duel.put("an update under another name", &web, service("other", http.clone())).await;
    duel.delete("a deletion", &at("services/exposed"), Value::Null).await;
    duel.delete("a deletion of what is not there", &at("services/exposed"), Value::Null).await;
    let other = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "b7f9a9a8-0000-4000-8000-000000000000"}});
    duel.delete("a deletion of another object", &at("services/headless"), other).await;
}

fn pod(name: &str, node: Option<&str>) -> Value {
    let container =
        json!({"name": "web", "image": "example.com/web", "ports": [{"name": "http", "containerPort": 8080}]});
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 600},
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

pub async fn pods(duel: &mut Duel) {
    let all = at("pods");
    duel.post("a pod", &format!("{all}?fieldManager=duel"), pod("one", Some("far"))).await;
    duel.post("a pod for nobody", &all, pod("two", None)).await;
    let mut none = pod("none", None);
    none["spec"]["containers"] = json!([]);
    duel.post("a pod without containers", &all, none).await;
    let mut made = pod("", None);
    made["metadata"] = json!({"generateName": "made-"});
    duel.post("a pod with a name that is made up", &all, made).await;
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.9.8.7", "podIPs": [{"ip": "10.9.8.7"}],
        "conditions": [condition("Ready", "False"), condition("ContainersReady", "True")],
    }});
    let one = at("pods/one/status?fieldManager=kubelet");
    duel.patch("a pod's status", &one, "strategic-merge", status).await;
    let ready = json!({"status": {"conditions": [condition("Ready", "True")]}});
    duel.patch("one condition of a pod", &one, "strategic-merge", ready).await;
    let gate = json!({"apiVersion": "v1", "kind": "Pod", "status": {"conditions": [condition("target-health.switchyard.dev/a", "True")]}});
    duel.patch("a condition by apply", &at("pods/one/status?fieldManager=agent"), "apply", gate.clone()).await;
    duel.patch("the same condition by apply", &at("pods/one/status?fieldManager=agent"), "apply", gate).await;
    let stolen = json!({"apiVersion": "v1", "kind": "Pod", "status": {"conditions": [condition("Ready", "Unknown")]}});
    duel.patch("a condition of another manager", &at("pods/one/status?fieldManager=agent"), "apply", stolen).await;
    let spec = json!({"spec": {"nodeName": "near"}, "status": {"phase": "Failed"}});
    duel.patch(
        "a status beside the status",
        &at("pods/one?fieldManager=duel"),
        "merge",
        json!({"status": spec["status"]}),
    )
    .await;
    duel.patch("a spec through the status", &one, "merge", json!({"spec": {"priority": 7}})).await;
    duel.delete("a pod that runs", &at("pods/one"), Value::Null).await;
    duel.get("a pod that is going", &at("pods/one")).await;
    duel.delete("a pod that runs, again", &at("pods/one"), Value::Null).await;
    duel.delete("a pod, shorter", &at("pods/one?gracePeriodSeconds=300"), Value::Null).await;
    duel.delete("a pod, at once", &at("pods/one?gracePeriodSeconds=0"), Value::Null).await;
    duel.get("a pod that is gone", &at("pods/one")).await;
    duel.delete("a pod on no node", &at("pods/two"), Value::Null).await;
    duel.get("a pod on no node that was deleted", &at("pods/two")).await;
    let mut held = pod("held", None);
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    duel.post("a pod with a finalizer", &all, held).await;
    duel.delete("a pod with a finalizer goes", &at("pods/held"), Value::Null).await;
    let released = json!({"metadata": {"finalizers": null}});
    duel.patch("a finalizer is taken away", &at("pods/held"), "merge", released).await;
    duel.get("a pod whose finalizer was taken", &at("pods/held")).await;
    duel.post("a pod to be evicted", &all, pod("evicted", Some("far"))).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}});
    duel.post("an eviction", &at("pods/evicted/eviction"), eviction.clone()).await;
    let missing = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "none"}});
    duel.post("an eviction of nobody", &at("pods/none/eviction"), missing).await;
}

pub async fn slices_leases_and_events(duel: &mut Duel) {
    let slices = group("discovery.k8s.io/v1", "endpointslices");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.9.8.7"], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": "far", "zone": "a"}],
    });
    duel.post("a slice", &slices, slice.clone()).await;
    let fewer = json!({"endpoints": []});
    duel.patch("a slice with nothing in it", &format!("{slices}/web-1?fieldManager=duel"), "merge", fewer).await;
    let leases = group("coordination.k8s.io/v1", "leases");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "held"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}});
    duel.post("a lease", &leases, lease).await;
    duel.patch(
        "a lease that is taken over",
        &format!("{leases}/held"),
        "merge",
        json!({"spec": {"holderIdentity": "b"}}),
    )
    .await;
    let involved = json!({"kind": "Pod", "namespace": "duel", "name": "one"});
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "one.1"}, "involvedObject": involved, "reason": "Seen",
        "message": "somebody saw it", "type": "Normal", "source": {"component": "duel"}, "count": 1,
    });
    duel.post("an event", &at("events"), event.clone()).await;
    let mut elsewhere = event;
    elsewhere["involvedObject"]["namespace"] = json!("other");
    elsewhere["metadata"]["name"] = json!("one.2");
    duel.post("an event about another namespace", &at("events"), elsewhere).await;
    let new = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "one.3"}, "eventTime": "2026-01-02T03:04:05.000000Z",
        "regarding": {"kind": "Pod", "namespace": "duel", "name": "one"}, "reason": "Seen", "action": "See", "note": "somebody saw it",
        "type": "Normal", "reportingController": "duel", "reportingInstance": "duel-1",
    });
    duel.post("an event of the newer API", &group("events.k8s.io/v1", "events"), new).await;
}

/// With every default written down: the sandbox has no schemas.
fn policy(name: &str, blue: u32) -> Value {
    json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy", "metadata": {"name": name},
        "spec": {
            "listener": {"loadBalancer": "shared", "port": 443},
            "match": {"hostnames": ["shop.example.com"]},
            "order": 100,
            "mode": "Weighted",
            "backend": {
                "service": {"name": "web", "port": "http"}, "targetType": "ip", "protocol": "HTTP", "protocolVersion": "HTTP1",
                "deregistrationDelaySeconds": 300,
                "healthCheck": {"path": "/", "intervalSeconds": 15, "timeoutSeconds": 5, "healthyThreshold": 2, "unhealthyThreshold": 2},
            },
            "safety": {"deregistrationBudgetPercent": 50, "freeze": false, "maxStepPercent": 100, "minActiveClusters": 1,
                "minStepIntervalSeconds": 0},
            "clusters": [{"name": "blue", "weight": blue}, {"name": "green", "weight": 0}],
        },
    })
}

pub async fn policies(duel: &mut Duel) {
    let all = group("switchyard.dev/v1alpha1", "clustertrafficpolicies");
    let web = format!("{all}/web");
    let by = |manager: &str| format!("{web}?fieldManager={manager}");
    duel.patch("a policy by apply", &by("author"), "apply", policy("web", 100)).await;
    duel.patch("the same policy by apply", &by("author"), "apply", policy("web", 100)).await;
    duel.patch("a changed policy by apply", &by("author"), "apply", policy("web", 90)).await;
    let mut labelled = policy("web", 90);
    labelled["metadata"]["labels"] = json!({"team": "shop"});
    duel.patch("a label by apply", &by("author"), "apply", labelled).await;
    duel.patch("no label any more by apply", &by("author"), "apply", policy("web", 90)).await;
    let weight = json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy", "spec": {"clusters": [{"name": "blue", "weight": 1}]},
    });
    duel.patch("a field of another manager by apply", &by("other"), "apply", weight.clone()).await;
    duel.patch("a field of another manager by force", &format!("{}&force=true", by("other")), "apply", weight).await;
    duel.patch("an apply without a manager", &web, "apply", policy("web", 90)).await;
    duel.patch(
        "a strategic merge of a custom resource",
        &by("other"),
        "strategic-merge",
        json!({"spec": {"order": 7}}),
    )
    .await;
    duel.patch("a merge of a custom resource", &by("merger"), "merge", json!({"spec": {"order": 7}})).await;
    let status = json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "status": {
            "observedGeneration": 3, "weights": "blue=90", "clusters": [{"name": "blue", "requestedWeight": 90}],
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Fine", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}],
        },
    });
    let of = |manager: &str| format!("{web}/status?fieldManager={manager}&force=true");
    duel.patch("a status by apply", &of("agent"), "apply", status.clone()).await;
    duel.patch("the same status by apply", &of("agent"), "apply", status).await;
    let smaller = json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy", "status": {"observedGeneration": 3},
    });
    duel.patch("less of a status by apply", &of("agent"), "apply", smaller).await;
    duel.patch("a status of nothing by apply", &format!("{all}/none/status?fieldManager=agent"), "apply", json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy", "status": {"observedGeneration": 3},
    })).await;
    duel.keep("kept", "/metadata/uid");
    duel.get("a policy with its status", &web).await;
    let mut wrong = policy("web", 80);
    wrong["metadata"]["uid"] = json!("b7f9a9a8-0000-4000-8000-000000000000");
    duel.put("a replacement of another object", &web, wrong).await;
    duel.put("a replacement without a version", &web, policy("web", 80)).await;
    duel.put("a replacement of what is not there", &format!("{all}/none"), policy("none", 80)).await;
    duel.delete("a policy goes", &web, Value::Null).await;
}

pub async fn lists(duel: &mut Duel) {
    let leases = group("coordination.k8s.io/v1", "leases");
    for n in 0..5 {
        let labels = json!({"n": n.to_string(), "odd": (n % 2 == 1).to_string()});
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": format!("l{n}"), "labels": labels}});
        duel.post("a lease for a list", &leases, lease).await;
    }
    duel.get("a list", &leases).await;
    duel.get("a list from memory", &format!("{leases}?resourceVersion=0")).await;
    duel.get("a page", &format!("{leases}?limit=2")).await;
    duel.keep("token", "/metadata/continue");
    duel.get("the next page", &format!("{leases}?limit=2&continue=$token")).await;
    duel.get("a page that cannot be gone on from", &format!("{leases}?limit=2&continue=nonsense")).await;
    duel.get("a list by label", &format!("{leases}?labelSelector=odd%3Dtrue,n+notin+(3)")).await;
    duel.get("a list by a label that is none", &format!("{leases}?labelSelector=a+b")).await;
    duel.get("a list by name", &format!("{leases}?fieldSelector=metadata.name%3Dl1")).await;
    duel.get("a list by an unknown field", &format!("{leases}?fieldSelector=spec.holderIdentity%3Da")).await;
    duel.get("pods by node", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnowhere").await;
    duel.get("a list at no version", &format!("{leases}?resourceVersion=x")).await;
    duel.get("a list with a rule and no version", &format!("{leases}?resourceVersionMatch=Exact")).await;
    duel.get("an empty list", &group("apps/v1", "deployments")).await;
    duel.get("a list in no namespace", "/apis/coordination.k8s.io/v1/namespaces/none/leases").await;
}

pub async fn watches(duel: &mut Duel) {
    let leases = group("coordination.k8s.io/v1", "leases");
    duel.get("a list before a watch", &leases).await;
    duel.keep("from", "/metadata/resourceVersion");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "seen", "labels": {"odd": "true"}}});
    duel.post("a lease to be seen", &leases, lease).await;
    duel.patch(
        "a lease leaves a selection",
        &format!("{leases}/seen"),
        "merge",
        json!({"metadata": {"labels": {"odd": "false"}}}),
    )
    .await;
    duel.delete("a lease to be seen goes", &format!("{leases}/seen"), Value::Null).await;
    let watch = format!("{leases}?watch=true&timeoutSeconds=2&resourceVersion=$from");
    duel.get("a watch", &watch).await;
    duel.get("a watch by label", &format!("{watch}&labelSelector=odd%3Dtrue")).await;
    duel.get("a watch by name", &format!("{watch}&fieldSelector=metadata.name%3Dl1")).await;
    let stream = format!("{leases}?watch=true&timeoutSeconds=2&sendInitialEvents=true&allowWatchBookmarks=true");
    duel.get("a streaming list", &format!("{stream}&resourceVersionMatch=NotOlderThan&labelSelector=n%3D1")).await;
    duel.get("a streaming list without its rule", &stream).await;
    duel.get("a watch from the beginning", &format!("{leases}?watch=1&timeoutSeconds=2&labelSelector=n%3D2")).await;
    duel.get(
        "a watch from any version",
        &format!("{leases}?watch=1&timeoutSeconds=2&resourceVersion=0&labelSelector=n%3D2"),
    )
    .await;
    duel.get("a watch from no version", &format!("{leases}?watch=1&timeoutSeconds=2&resourceVersion=x")).await;
}

pub async fn mistakes(duel: &mut Duel) {
    let leases = group("coordination.k8s.io/v1", "leases");
    duel.get("a kind that is not there", &at("sprockets")).await;
    duel.get("a group that is not there", "/apis/example.com/v1/namespaces/duel/things").await;
    duel.ask("a method that is none", "PUT", &leases, JSON, "{}").await;
    duel.ask("a body that is no JSON", "POST", &leases, JSON, "{").await;
    duel.ask("a body of nothing", "POST", &leases, JSON, "").await;
    duel.ask("a patch of an unknown form", "PATCH", &format!("{leases}/l1"), "text/plain", "{}").await;
    duel.ask("a patch that is no JSON", "PATCH", &format!("{leases}/l1"), "application/merge-patch+json", "{").await;
    duel.post(
        "an object of another kind",
        &leases,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}),
    )
    .await;
    let lease =
        |metadata: Value| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata});
    duel.post("an object of another namespace", &leases, lease(json!({"name": "a", "namespace": "other"}))).await;
    duel.post("an object without a name", &leases, lease(json!({}))).await;
    duel.post("a new object with a version", &leases, lease(json!({"name": "a", "resourceVersion": "1"}))).await;
    duel.post("a label that is none", &leases, lease(json!({"name": "a", "labels": {"a": "b c"}}))).await;
}

pub async fn discovery(duel: &mut Duel) {
    duel.get("the core version", "/api").await;
    duel.get("our resources", "/apis/switchyard.dev/v1alpha1").await;
    duel.get("the resources of leases", "/apis/coordination.k8s.io/v1").await;
}
