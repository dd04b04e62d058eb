//! The JSON gateway over real sockets: the same services and answers as gRPC, in JSON; what is refused, and how.

mod gateway_support;
mod grpc_support;
mod store_support;

use std::time::Duration;

use gateway_support::{get, lines, post, raw, send};
use grpc_support::{Hub, hub, hub_with, manifest};
use serde_json::{Value, json};
use switchyard_hub::gateway::Limits;
use switchyard_proto::api::v1 as api;
use tokio::{io::AsyncWriteExt, net::TcpStream};

const POLICY: &str = "/v1/namespaces/shop/policies/web";

async fn apply(hub: &Hub, name: &str) -> Value {
    let body =
        json!({"requestId": format!("apply-{name}"), "manifest": manifest(name, &[("blue", 100), ("green", 0)])});
    let answer = post(hub.gateway, "/v1/policies:apply", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn a_policy_lives_over_json_as_it_does_over_grpc() {
    let hub = hub().await;
    let applied = apply(&hub, "web").await;
    assert_eq!(applied["outcome"], "APPLY_OUTCOME_CREATED");
    assert_eq!(applied["policy"]["version"], "1", "64-bit numbers are texts: {applied}");

    let found = get(hub.gateway, POLICY).await;
    assert_eq!(found.header("content-type"), "application/json");
    assert!(found.header("switchyard-picture-age-ms").parse::<u64>().is_ok(), "{found:?}");
    let request = api::GetPolicyRequest { policy: Some(grpc_support::policy_ref("web")) };
    let over_grpc = hub.policies().get_policy(request).await.unwrap().into_inner().policy.unwrap();
    assert_eq!(found.json()["policy"]["uid"], over_grpc.uid.as_str());
    assert_eq!(found.json()["policy"]["specJson"], over_grpc.spec_json.as_str());

    let set = json!({"weights": {"blue": 10, "green": 90}, "expectedVersion": "1", "reason": "a release"}).to_string();
    let key = [("idempotency-key", "set-1")];
    let set = send(hub.gateway, &format!("POST {POLICY}:setWeights"), &key, &set).await;
    assert_eq!((set.status.as_u16(), &set.json()["policy"]["version"]), (200, &json!("2")), "{set:?}");

    for path in ["/v1/policies?pageSize=1", "/v1/namespaces/shop/policies", "/v1/policies?namespace=shop"] {
        let list = get(hub.gateway, path).await.json();
        assert_eq!(list["policies"][0]["ref"], json!({"namespace": "shop", "name": "web"}), "{path}: {list}");
    }
    assert_eq!(get(hub.gateway, "/v1/namespaces/other/policies").await.json(), json!({}));
    assert_eq!(get(hub.gateway, "/v1/endpoints?cluster=").await.json(), json!({}));

    let gone = send(hub.gateway, &format!("DELETE {POLICY}?requestId=gone&expectedVersion=2"), &[], "").await;
    assert!(gone.json()["policy"]["deletingSince"].is_string(), "{gone:?}");
    hub.stop().await;
}

#[tokio::test]
async fn refusals_of_the_services_come_with_status_code_and_details() {
    let hub = hub().await;
    apply(&hub, "web").await;
    let missing = get(hub.gateway, "/v1/namespaces/shop/policies/nobody").await;
    assert_eq!(missing.refusal(), (404, "NOT_FOUND".to_owned()));
    assert!(missing.json()["message"].as_str().unwrap().contains("there is no policy shop/nobody"), "{missing:?}");

    let stale = json!({"requestId": "s", "weights": {"blue": 1}, "expectedVersion": "7"});
    let stale = post(hub.gateway, &format!("{POLICY}:setWeights"), &stale).await;
    assert_eq!(stale.refusal(), (409, "ABORTED".to_owned()));
    let versions = json!([{
        "@type": "switchyard.api.v1.VersionConflict", "expectedVersion": "7", "presentVersion": "1",
    }]);
    assert_eq!(stale.json()["details"], versions);

    let bad = json!({"requestId": "b", "weights": {"red": 1}});
    let bad = post(hub.gateway, &format!("{POLICY}:setWeights"), &bad).await;
    assert_eq!(bad.refusal(), (400, "INVALID_ARGUMENT".to_owned()));
    let violation = &bad.json()["details"][0]["violations"][0];
    assert!(violation["field"].as_str().unwrap().contains("weights"), "{bad:?}");

    let plan = get(hub.gateway, "/v1/plan").await;
    assert_eq!(plan.refusal(), (503, "UNAVAILABLE".to_owned()), "AWS was not read yet");
    assert!(!plan.header("retry-after").is_empty());
    hub.aws_was_read();
    assert_eq!(get(hub.gateway, "/v1/plan").await.status, 200);
    hub.stop().await;
}

#[tokio::test]
async fn the_key_of_a_header_gives_the_first_answer_again_also_when_many_come_at_once() {
    let hub = hub().await;
    apply(&hub, "web").await;
    let line = format!("POST {POLICY}:setWeights");
    let body = json!({"weights": {"blue": 5, "green": 95}}).to_string();
    let calls = (0..20).map(|_| send(hub.gateway, &line, &[("idempotency-key", "release-42")], &body));
    for answer in futures::future::join_all(calls).await {
        assert_eq!((answer.status.as_u16(), &answer.json()["policy"]["version"]), (200, &json!("2")), "{answer:?}");
    }
    let other = json!({"weights": {"blue": 6}}).to_string();
    let other = send(hub.gateway, &line, &[("idempotency-key", "release-42")], &other).await;
    assert_eq!(other.refusal(), (409, "ALREADY_EXISTS".to_owned()));
    let none = send(hub.gateway, &line, &[], &body).await;
    assert_eq!(none.refusal(), (400, "INVALID_ARGUMENT".to_owned()), "a change needs an id");
    for keys in [&["a", "a"][..], &[""], &["ä"], &["a b"], &["k".repeat(129).as_str()]] {
        let headers: Vec<(&str, &str)> = keys.iter().map(|key| ("idempotency-key", *key)).collect();
        let answer = send(hub.gateway, &line, &headers, &body).await;
        assert_eq!(answer.refusal(), (400, "INVALID_ARGUMENT".to_owned()), "{keys:?}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_watch_is_one_object_a_line_and_ends_with_an_error_when_the_hub_does() {
    let hub = hub().await;
    apply(&hub, "web").await;
    let (status, headers, mut watch) = lines(hub.gateway, &format!("{POLICY}:watch")).await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/x-ndjson".parse().unwrap()));
    let first = watch.next().await.unwrap();
    assert_eq!((&first["event"], &first["policy"]["version"]), (&json!("WATCH_EVENT_PRESENT"), &json!("1")));
    assert_eq!(watch.next().await.unwrap(), json!({"event": "WATCH_EVENT_SYNCED"}));
    let set = json!({"requestId": "1", "weights": {"blue": 1}});
    assert_eq!(post(hub.gateway, &format!("{POLICY}:setWeights"), &set).await.status, 200);
    let changed = watch.next().await.unwrap();
    assert_eq!((&changed["event"], &changed["policy"]["version"]), (&json!("WATCH_EVENT_CHANGED"), &json!("2")));
    hub.shutdown.cancel();
    let last = watch.next().await.unwrap();
    assert_eq!(last["error"]["code"], "UNAVAILABLE", "{last}");
    assert!(watch.next().await.is_none());
    hub.stop().await;
}

#[tokio::test]
async fn a_watch_that_cannot_begin_has_a_status() {
    let hub = hub().await;
    let answer = get(hub.gateway, "/v1/policies:watch?namespace=Not+A+Namespace").await;
    assert_eq!(answer.refusal(), (400, "INVALID_ARGUMENT".to_owned()));
    hub.stop().await;
}

#[tokio::test]
async fn a_silent_watch_says_empty_lines_and_watches_never_take_the_places_of_calls() {
    let limits = Limits { silence: Duration::from_millis(50), streams: 2, calls: 2, ..Limits::default() };
    let hub = hub_with(&store_support::database_url().await, limits).await;
    let (_, _, mut first) = lines(hub.gateway, "/v1/policies:watch").await;
    let (_, _, second) = lines(hub.gateway, "/v1/policies:watch").await;
    assert_eq!(first.next().await.unwrap(), json!({"event": "WATCH_EVENT_SYNCED"}));
    assert_eq!(first.line().await.unwrap(), "\n");
    let third = get(hub.gateway, "/v1/policies:watch").await;
    assert_eq!(third.refusal(), (429, "RESOURCE_EXHAUSTED".to_owned()));
    assert!(!third.header("retry-after").is_empty());
    assert_eq!(get(hub.gateway, "/v1/policies").await.status, 200, "calls have their own places");
    drop(second);
    grpc_support::eventually("the place of a watcher that left to be free", async || {
        let (status, _, _) = lines(hub.gateway, "/v1/policies:watch").await;
        (status == 200).then_some(())
    })
    .await;
    hub.stop().await;
}

/// A change of which the body does not come.
async fn bodiless(hub: &Hub) -> TcpStream {
    let mut slow = TcpStream::connect(hub.gateway).await.unwrap();
    let head = format!("{}content-length: 9\r\n\r\n{{", head_of_weights());
    slow.write_all(head.as_bytes()).await.unwrap();
    slow
}

#[tokio::test]
async fn bodies_that_do_not_come_take_the_places_of_bodies_of_their_address_and_of_no_call() {
    // One address has the thirty-second part: two.
    let limits = Limits { calls: 1, bodies: 64, ..Limits::default() };
    let hub = hub_with(&store_support::database_url().await, limits).await;
    let slow = [bodiless(&hub).await, bodiless(&hub).await];
    let set = json!({"requestId": "1", "weights": {"blue": 1}});
    let path = format!("{POLICY}:setWeights");
    let busy = grpc_support::eventually("the places of bodies to be taken", async || {
        let answer = post(hub.gateway, &path, &set).await;
        (answer.status != 404).then_some(answer)
    })
    .await;
    assert_eq!(busy.refusal(), (429, "RESOURCE_EXHAUSTED".to_owned()));
    assert_eq!(get(hub.gateway, "/v1/policies").await.status, 200, "the only place of a call is free");
    drop(slow);
    grpc_support::eventually("the places of those who left to be free", async || {
        (post(hub.gateway, &path, &set).await.status == 404).then_some(())
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn calls_past_their_number_are_turned_away_and_told_when_to_come_again() {
    let limits = Limits { calls: 1, ..Limits::default() };
    let hub = hub_with(&store_support::database_url().await, limits).await;
    apply(&hub, "web").await;
    // A change that waits for the database holds its place.
    let raw = sqlx::PgPool::connect(&hub.url).await.unwrap();
    let mut lock = raw.begin().await.unwrap();
    sqlx::query("lock table idempotency in access exclusive mode").execute(&mut *lock).await.unwrap();
    let set = json!({"requestId": "1", "weights": {"blue": 1}});
    let (path, gateway) = (format!("{POLICY}:setWeights"), hub.gateway);
    let waiting = tokio::spawn(async move { post(gateway, &path, &set).await });
    let busy = grpc_support::eventually("the place to be taken", async || {
        let answer = get(hub.gateway, "/v1/clusters").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(busy.refusal(), (429, "RESOURCE_EXHAUSTED".to_owned()));
    assert!(!busy.header("retry-after").is_empty());
    lock.rollback().await.unwrap();
    waiting.await.unwrap();
    grpc_support::eventually("the place to be free again", async || {
        (get(hub.gateway, "/v1/clusters").await.status == 200).then_some(())
    })
    .await;
    hub.stop().await;
}

/// A request, its headers and its body; the status and the code of the answer.
type Refused<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

#[tokio::test]
async fn what_is_no_request_is_refused_before_any_service_hears_of_it() {
    let hub = hub().await;
    let weights = format!("POST {POLICY}:setWeights");
    let long = format!("GET /v1/policies?namespace={}", "a".repeat(9000));
    let bytes = "x".repeat(129 * 1024);
    let plain = [("content-type", "text/plain")];
    let cases: [Refused<'_>; 15] = [
        ("GET /v1/nothing", &[], "", 404, "NOT_FOUND"),
        ("GET /", &[], "", 404, "NOT_FOUND"),
        ("GET /v1//policies", &[], "", 404, "NOT_FOUND"),
        ("GET /v1/policies/", &[], "", 404, "NOT_FOUND"),
        ("GET /v1/policies/../policies", &[], "", 404, "NOT_FOUND"),
        ("GET /v1%2Fpolicies", &[], "", 404, "NOT_FOUND"),
        ("GET /switchyard.api.v1.PolicyService/ListPolicies", &[], "", 404, "NOT_FOUND"),
        ("GET /v1/namespaces/..%2f../policies/web", &[], "", 400, "INVALID_ARGUMENT"),
        ("PATCH /v1/policies", &[], "", 405, "UNIMPLEMENTED"),
        ("HEAD /v1/policies", &[], "", 405, "UNIMPLEMENTED"),
        (&long, &[], "", 414, "INVALID_ARGUMENT"),
        (&weights, &plain, "{}", 415, "INVALID_ARGUMENT"),
        (&weights, &[], &bytes, 413, "INVALID_ARGUMENT"),
        ("GET /v1/policies", &[], "{}", 400, "INVALID_ARGUMENT"),
        ("GET /v1/policies", &[("origin", "https://evil.example")], "", 403, "PERMISSION_DENIED"),
    ];
    for (line, headers, body, status, code) in cases {
        let answer = send(hub.gateway, line, headers, body).await;
        let shown = &line[..line.len().min(60)];
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        if !line.starts_with("HEAD") {
            assert_eq!(answer.refusal().1, code, "{shown}: {answer:?}");
            assert_eq!(answer.header("content-type"), "application/json", "{shown}");
        }
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{shown}");
        assert_eq!(answer.header("cache-control"), "no-store", "{shown}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{shown}");
    }
    let allowed = send(hub.gateway, &format!("PUT {POLICY}"), &[], "{}").await;
    assert_eq!((allowed.status.as_u16(), allowed.header("allow")), (405, "GET, DELETE"));
    hub.stop().await;
}

fn head_of_weights() -> String {
    format!("POST {POLICY}:setWeights HTTP/1.1\r\nhost: hub\r\ncontent-type: application/json\r\n")
}

#[tokio::test]
async fn slow_heads_and_bodies_end_in_time() {
    // Short for what never comes; nothing here depends on something that comes in time.
    let short = Duration::from_millis(300);
    let url = store_support::database_url().await;
    let hub = hub_with(&url, Limits { head: short, body: short, ..Limits::default() }).await;
    assert_eq!(raw(hub.gateway, b"").await, "", "a connection on which nothing is asked is closed");
    let late = raw(hub.gateway, b"GET /v1/policies HTTP/1.1\r\nhost: hub\r\nx: ").await;
    assert!(late.is_empty() || late.starts_with("HTTP/1.1 408"), "{late}");
    hub.stop().await;
    let hub = hub_with(&url, Limits { body: short, ..Limits::default() }).await;
    let slow = raw(hub.gateway, format!("{}content-length: 5\r\n\r\n{{", head_of_weights()).as_bytes()).await;
    assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("DEADLINE_EXCEEDED"), "{slow}");
    hub.stop().await;
}

#[tokio::test]
async fn overlong_heads_and_bodies_are_refused_and_others_are_served_all_the_same() {
    let hub = hub().await;
    let head = head_of_weights();
    let lying = raw(hub.gateway, format!("{head}content-length: 999999\r\n\r\n").as_bytes()).await;
    assert!(lying.starts_with("HTTP/1.1 413"), "refused before it is sent: {lying}");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n21000\r\n{}", "x".repeat(0x21000));
    let chunked = raw(hub.gateway, chunked.as_bytes()).await;
    assert!(chunked.starts_with("HTTP/1.1 411"), "no length is told: {chunked}");
    let large = format!("GET /v1/policies HTTP/1.1\r\nhost: hub\r\nx: {}\r\n\r\n", "x".repeat(40_000));
    let large = raw(hub.gateway, large.as_bytes()).await;
    assert!(large.starts_with("HTTP/1.1 431"), "{large}");
    let many: String = (0..70).map(|n| format!("x{n}: y\r\n")).collect();
    let many = raw(hub.gateway, format!("GET /v1/policies HTTP/1.1\r\nhost: hub\r\n{many}\r\n").as_bytes()).await;
    assert!(many.starts_with("HTTP/1.1 431"), "{many}");
    let noise = raw(hub.gateway, b"\x16\x03\x01\x02\x00 not http\r\n\r\n").await;
    assert!(noise.starts_with("HTTP/1.1 400"), "{noise}");
    assert_eq!(get(hub.gateway, "/v1/policies").await.status, 200);
    hub.stop().await;
}

#[tokio::test]
async fn requests_are_counted_by_template_and_never_by_what_callers_make_up() {
    let hub = hub().await;
    get(hub.gateway, "/v1/namespaces/shop/policies/secret-name").await;
    get(hub.gateway, "/v1/made-up").await;
    send(hub.gateway, "BREW /v1/policies", &[], "").await;
    let text = hub.metrics.encoded().unwrap();
    let counted = |method: &str, route: &str, status: u32| {
        format!(r#"switchyard_hub_gateway_requests_total{{method="{method}",route="{route}",status="{status}"}} 1"#)
    };
    let template = "/v1/namespaces/{policy.namespace}/policies/{policy.name}";
    for line in [counted("GET", template, 404), counted("GET", "none", 404), counted("other", "other method", 405)] {
        assert!(text.contains(&line), "{line} is missing in {text}");
    }
    assert!(!text.contains("made-up") && !text.contains("secret-name") && !text.contains("BREW"), "{text}");
    hub.stop().await;
}

#[tokio::test]
async fn the_description_is_served_and_names_every_route() {
    let hub = hub().await;
    let answer = get(hub.gateway, "/openapi.json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    for binding in switchyard_hub::gateway::routes::BINDINGS {
        let operation = &document["paths"];
        let found = operation.as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().iter());
        let found = found.filter(|(method, operation)| {
            operation["operationId"] == binding.operation && method.eq_ignore_ascii_case(binding.http)
        });
        assert_eq!(found.count(), 1, "{binding:?}");
    }
    let other = send(hub.gateway, "DELETE /openapi.json", &[], "").await;
    assert_eq!((other.status.as_u16(), other.header("allow")), (405, "GET"));
    hub.stop().await;
}

#[tokio::test]
async fn whole_clusters_and_explanations_are_served_over_json() {
    let hub = hub().await;
    apply(&hub, "web").await;
    let (status, _, mut watch) = lines(hub.gateway, "/v1/clusters/blue:watch").await;
    assert_eq!(status.as_u16(), 200);
    let first = watch.next().await.unwrap();
    assert_eq!((&first["cluster"]["name"], &first["cluster"]["mode"]), (&json!("blue"), &json!("CLUSTER_MODE_ACTIVE")));
    let body = json!({"reason": "an upgrade"}).to_string();
    let key = [("idempotency-key", "cordon-1")];
    let calls = (0..5).map(|_| send(hub.gateway, "POST /v1/clusters/blue:cordon", &key, &body));
    for answer in futures::future::join_all(calls).await {
        let cluster = &answer.json()["cluster"];
        assert_eq!(
            (&cluster["mode"], &cluster["operation"]["version"]),
            (&json!("CLUSTER_MODE_CORDONED"), &json!("1"))
        );
        assert_eq!(cluster["operation"]["kind"], "CLUSTER_OPERATION_KIND_CORDON");
    }
    let told = watch.next().await.unwrap();
    assert_eq!(told["cluster"]["operation"]["reason"], "an upgrade", "{told}");
    let listed = get(hub.gateway, "/v1/clusters").await.json();
    assert_eq!(listed["clusters"][0]["mode"], "CLUSTER_MODE_CORDONED", "also before its agent was seen: {listed}");

    let wrong = post(hub.gateway, "/v1/clusters/blue:drain", &json!({"requestId": "d", "stepPercent": 101})).await;
    assert_eq!(wrong.refusal(), (400, "INVALID_ARGUMENT".to_owned()));
    assert_eq!(wrong.json()["details"][0]["violations"][0]["field"], "step_percent");
    let carried = post(hub.gateway, "/v1/clusters/blue:remove", &json!({"requestId": "r"})).await;
    assert_eq!(carried.refusal(), (400, "FAILED_PRECONDITION".to_owned()));
    let finding = &carried.json()["details"][0]["findings"][0];
    assert_eq!((&finding["guard"], &finding["policy"]["name"]), (&json!("StillCarries"), &json!("web")));
    hub.aws_was_read();
    let drill = post(hub.gateway, "/v1/clusters/blue:drillLoss", &json!({"dryRun": true})).await;
    assert_eq!(drill.json()["forecast"][0]["verdict"], "FORECAST_VERDICT_NOT_CARRIED", "{drill:?}");
    let back = post(hub.gateway, "/v1/clusters/blue:uncordon", &json!({"requestId": "u"})).await;
    assert_eq!(back.json()["cluster"]["mode"], "CLUSTER_MODE_ACTIVE", "{back:?}");

    let explained = get(hub.gateway, &format!("{POLICY}:explain")).await.json();
    assert_eq!(explained["policy"]["ref"]["name"], "web", "{explained}");
    assert!(explained.get("explanation").is_none(), "it was not planned yet: {explained}");
    let nothing = post(hub.gateway, &format!("{POLICY}:failback"), &json!({"requestId": "f"})).await;
    assert_eq!(nothing.refusal(), (400, "FAILED_PRECONDITION".to_owned()));
    hub.stop().await;
}
