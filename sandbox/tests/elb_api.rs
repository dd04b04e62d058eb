//! The API of the sandbox's load balancers as the unmodified AWS SDK sees it: round trips, error codes, quotas,
//! throttling, scripted faults, the call log.

mod elb_support;

use std::time::{Duration, Instant};

use aws_sdk_elasticloadbalancingv2::{
    error::{ProvideErrorMetadata, SdkError},
    types::{ProtocolEnum, Tag, TargetTypeEnum},
};
use elb_support::{Backend, Bench, forward, path, quick, target, until};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use switchyard_sandbox::elb::{ElbConfig, RateLimits};

/// The wire code of a failed call, or what kind of failure it was when no answer came.
fn code<T, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(SdkError::ServiceError(e)) => e.err().code().unwrap_or("no code").to_owned(),
        Err(SdkError::DispatchFailure(_)) => "no answer".to_owned(),
        Err(_) => "other".to_owned(),
    }
}

async fn calls(bench: &Bench, query: &str) -> Vec<Value> {
    bench.get(&format!("/calls?{query}")).await["calls"].as_array().unwrap().clone()
}

#[tokio::test]
async fn everything_that_is_created_reads_back_as_it_was_asked_for() {
    let bench = Bench::start(quick()).await;
    let subnets = ["subnet-1", "subnet-2"].map(str::to_owned).to_vec();
    let tag = Tag::builder().key("team").value("payments & co").build();
    let made =
        bench.aws.create_load_balancer().name("shared").set_subnets(Some(subnets)).tags(tag).send().await.unwrap();
    let lb = made.load_balancers()[0].clone();
    let arn = lb.load_balancer_arn().unwrap();
    assert!(arn.starts_with("arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/app/shared/"), "{arn}");
    assert_eq!(lb.state().unwrap().code().unwrap().as_str(), "provisioning");
    assert_eq!(lb.availability_zones().len(), 2);
    until("the load balancer is active", async || {
        let answer = bench.aws.describe_load_balancers().names("shared").send().await.unwrap();
        answer.load_balancers()[0].state().unwrap().code().unwrap().as_str() == "active"
    })
    .await;
    let (blue, green) = (bench.group("blue").await, bench.group("green").await);
    let listener = bench.aws.create_listener().load_balancer_arn(arn).protocol(ProtocolEnum::Http).port(18_080);
    let listener = listener.default_actions(forward(&[(&blue, 1)], None)).send().await.unwrap();
    let listener = listener.listeners()[0].listener_arn().unwrap().to_owned();
    let rule = bench.aws.create_rule().listener_arn(&listener).priority(7).conditions(path("/checkout/*"));
    let rule = rule.actions(forward(&[(&blue, 990), (&green, 9)], Some(60))).send().await.unwrap();
    let rule = rule.rules()[0].rule_arn().unwrap().to_owned();
    let read = bench.aws.describe_rules().listener_arn(&listener).send().await.unwrap();
    assert_eq!(read.rules().iter().map(|r| r.priority().unwrap()).collect::<Vec<_>>(), ["7", "default"]);
    let config = read.rules()[0].actions()[0].forward_config().unwrap();
    let weights: Vec<_> =
        config.target_groups().iter().map(|g| (g.target_group_arn().unwrap(), g.weight().unwrap())).collect();
    assert_eq!(weights, [(blue.as_str(), 990), (green.as_str(), 9)]);
    assert_eq!(config.target_group_stickiness_config().unwrap().duration_seconds(), Some(60));
    let condition = &read.rules()[0].conditions()[0];
    assert_eq!(condition.path_pattern_config().unwrap().values(), ["/checkout/*"]);
    let groups = bench.aws.describe_target_groups().load_balancer_arn(arn).send().await.unwrap();
    assert_eq!(groups.target_groups().len(), 2);
    assert_eq!(groups.target_groups()[0].load_balancer_arns(), [arn]);
    assert_eq!(groups.target_groups()[0].matcher().unwrap().http_code(), Some("200"));
    let tags = bench.aws.describe_tags().resource_arns(arn).resource_arns(&rule).send().await.unwrap();
    assert_eq!(tags.tag_descriptions()[0].tags()[0].value(), Some("payments & co"));
    // What was read can be written again as it is: whole lists, both forms of the condition.
    let back = bench.aws.modify_rule().rule_arn(&rule).conditions(condition.clone());
    back.actions(read.rules()[0].actions()[0].clone()).send().await.unwrap();
}

#[tokio::test]
async fn errors_are_the_typed_ones_of_the_sdk() {
    let bench = Bench::start(quick()).await;
    let missing = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:listener-rule/app/x/1/2/3";
    let error = bench.aws.delete_rule().rule_arn(missing).send().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_rule_not_found_exception());
    let error = bench.aws.describe_target_groups().names("nope").send().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_target_group_not_found_exception());
    let front = bench.front("shared").await;
    let group = bench.group("web").await;
    bench.rule(&front, &[(&group, 1)]).await;
    let error = bench.aws.delete_target_group().target_group_arn(&group).send().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_resource_in_use_exception());
    let again = bench.aws.create_rule().listener_arn(&front.listener).priority(10).conditions(path("/x"));
    let error = again.actions(forward(&[(&group, 1)], None)).send().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_priority_in_use_exception());
    assert_eq!(code(bench.aws.create_target_group().name("a_b").port(1).send().await), "ValidationError");
}

#[tokio::test]
async fn what_is_not_modelled_answers_invalid_action_in_xml() {
    let bench = Bench::start(quick()).await;
    assert_eq!(code(bench.aws.describe_ssl_policies().send().await), "InvalidAction");
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    for (method, body) in
        [("POST", "Action=NoSuchThing&Version=2015-12-01"), ("POST", ""), ("POST", "%%%"), ("GET", "")]
    {
        let body = http_body_util::Full::new(bytes::Bytes::from(body));
        let request = http::Request::builder().method(method).uri(&bench.endpoint).body(body).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (400, &"text/xml".parse().unwrap())
        );
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.starts_with("<ErrorResponse") && text.contains("<Type>Sender</Type>"), "{text}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_applied_and_a_refused_call_is_not_and_the_log_tells_them_apart() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (blue, green) = (bench.group("blue").await, bench.group("green").await);
    let rule = bench.rule(&front, &[(&blue, 1)]).await;
    let before = bench.get("/calls").await["next"].clone();
    let modify =
        |weights: &[(&str, i32)]| bench.aws.modify_rule().rule_arn(&rule).actions(forward(weights, None)).send();
    let group_count = async || {
        let read = bench.aws.describe_rules().rule_arns(&rule).send().await.unwrap();
        read.rules()[0].actions()[0].forward_config().unwrap().target_groups().len()
    };
    bench.control("POST", "/faults", json!({"operation": "ModifyRule", "kind": "refused"})).await;
    assert_eq!(code(modify(&[(&blue, 1), (&green, 1)]).await), "no answer");
    assert_eq!(group_count().await, 1);
    bench.control("POST", "/faults", json!({"operation": "ModifyRule", "nth": 1, "kind": "lost_answer"})).await;
    assert_eq!(code(modify(&[(&blue, 1), (&green, 1)]).await), "no answer");
    assert_eq!(group_count().await, 2);
    assert_eq!(code(modify(&[(&blue, 1)]).await), "ok");
    let log = calls(&bench, &format!("since={before}&mutating=true")).await;
    let told: Vec<_> = log.iter().map(|c| (&c["outcome"], &c["applied"], &c["answered"])).collect();
    let told_as = json!([["connection-cut", false, false], ["ok", true, false], ["ok", true, true]]);
    assert_eq!(json!(told), told_as);
    assert_eq!(log[0]["parameters"]["RuleArn"], json!(rule));
}

#[tokio::test]
async fn empty_buckets_throttle_by_class_and_refill() {
    let bench = Bench::start(ElbConfig { rate_limits: RateLimits::default(), ..quick() }).await;
    let body = json!({"rates": {"mutate": {"rate": 0.0, "burst": 2.0}}});
    bench.control("POST", "/limits", body).await;
    let create = |name: &str| {
        let call = bench.aws.create_target_group().name(name).protocol(ProtocolEnum::Http).port(80);
        call.vpc_id(&bench.config.vpc_id).target_type(TargetTypeEnum::Ip).send()
    };
    for (name, expected) in [("a", "ok"), ("b", "ok"), ("c", "ThrottlingException")] {
        assert_eq!(code(create(name).await), expected);
    }
    assert_eq!(bench.aws.describe_target_groups().send().await.unwrap().target_groups().len(), 2);
    let log = calls(&bench, "mutating=true").await;
    assert_eq!(log[2]["outcome"], "ThrottlingException");
    bench.control("POST", "/limits", json!({"rates": {"mutate": {"rate": 50.0, "burst": 1.0}}})).await;
    assert_eq!(code(create("c").await), "ok");
    until("the bucket refills", async || code(create("d").await) == "ok").await;
    bench.front("made-while-throttled").await;
}

#[tokio::test]
async fn scripted_errors_hit_the_call_they_name_with_the_code_they_name() {
    let bench = Bench::start(quick()).await;
    let fault = json!({"operation": "DescribeTargetGroups", "nth": 2, "times": 2, "kind": "throttle"});
    bench.control("POST", "/faults", fault).await;
    for expected in ["ok", "ThrottlingException", "ThrottlingException", "ok"] {
        assert_eq!(code(bench.aws.describe_target_groups().send().await), expected);
        assert_eq!(code(bench.aws.describe_load_balancers().send().await), "ok");
    }
    let fault = json!({"operation": "*", "every": true, "kind": "error", "code": "InternalFailure", "message": "boom", "http_status": 500});
    bench.control("POST", "/faults", fault).await;
    let error = bench.aws.describe_load_balancers().send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 500);
    assert_eq!(code::<(), _>(Err(error)), "InternalFailure");
    bench.control("DELETE", "/faults", Value::Null).await;
    assert_eq!(code(bench.aws.describe_load_balancers().send().await), "ok");
    bench.control("POST", "/faults", json!({"operation": "*", "kind": "delay_ms", "ms": 300})).await;
    let started = Instant::now();
    assert_eq!(code(bench.aws.describe_load_balancers().send().await), "ok");
    assert!(started.elapsed() >= Duration::from_millis(300));
    let (status, refused) =
        bench.control_raw("POST", "/faults", json!({"operation": "Nope", "kind": "throttle"})).await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("'Nope'"));
    let (status, refused) =
        bench.control_raw("POST", "/faults", json!({"operation": "*", "kind": "throttle", "time": 3})).await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("'time'"));
}

#[tokio::test]
async fn a_stale_read_tells_of_the_past_and_writes_never_do() {
    let bench = Bench::start(quick()).await;
    bench.group("old").await;
    let fault =
        json!({"operation": "DescribeTargetGroups", "every": true, "times": 1, "kind": "stale_read_ms", "ms": 600_000});
    bench.control("POST", "/faults", fault).await;
    bench.group("new").await;
    assert_eq!(bench.aws.describe_target_groups().send().await.unwrap().target_groups().len(), 1);
    assert_eq!(bench.aws.describe_target_groups().send().await.unwrap().target_groups().len(), 2);
}

#[tokio::test]
async fn quotas_can_be_set_are_enforced_and_are_what_account_limits_say() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let group = bench.group("web").await;
    bench.control("POST", "/limits", json!({"quotas": {"rules-per-application-load-balancer": 1}})).await;
    bench.rule(&front, &[(&group, 1)]).await;
    let second = bench.aws.create_rule().listener_arn(&front.listener).priority(11).conditions(path("/x"));
    let error = second.actions(forward(&[(&group, 1)], None)).send().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_too_many_rules_exception());
    let limits = bench.aws.describe_account_limits().send().await.unwrap();
    let max =
        |name: &str| limits.limits().iter().find(|l| l.name() == Some(name)).and_then(|l| l.max()).map(str::to_owned);
    assert_eq!(max("rules-per-application-load-balancer").as_deref(), Some("1"));
    assert_eq!(max("target-groups-per-action-on-application-load-balancer").as_deref(), Some("5"));
    let (status, refused) = bench.control_raw("POST", "/limits", json!({"quotas": {"nonsense": 1}})).await;
    assert_eq!(status, 400);
    assert!(refused["error"].as_str().unwrap().contains("nonsense"));
}

#[tokio::test]
async fn small_pages_are_walked_to_the_end_by_the_paginator_of_the_sdk() {
    let bench = Bench::start(quick()).await;
    for n in 0..7 {
        bench.group(&format!("g{n}")).await;
    }
    bench.control("POST", "/limits", json!({"default_page_size": 2})).await;
    let mut pages = bench.aws.describe_target_groups().into_paginator().send();
    let mut sizes = Vec::new();
    while let Some(page) = pages.next().await {
        sizes.push(page.unwrap().target_groups().len());
    }
    assert_eq!(sizes, [2, 2, 2, 1]);
}

#[tokio::test]
async fn a_partition_cuts_the_api_and_its_end_heals_it() {
    let bench = Bench::start(quick()).await;
    assert_eq!(code(bench.aws.describe_load_balancers().send().await), "ok");
    bench.control("POST", "/partition", json!({"on": true})).await;
    for _ in 0..3 {
        assert_eq!(code(bench.aws.describe_load_balancers().send().await), "no answer");
    }
    bench.control("POST", "/partition", json!({"on": false})).await;
    assert_eq!(code(bench.aws.describe_load_balancers().send().await), "ok");
}

#[tokio::test]
async fn reads_leave_no_trace_among_the_writes_of_the_call_log() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let group = bench.group("web").await;
    let since = bench.get("/calls").await["next"].clone();
    bench.aws.describe_rules().listener_arn(&front.listener).send().await.unwrap();
    bench.aws.describe_target_health().target_group_arn(&group).send().await.unwrap();
    assert_eq!(calls(&bench, &format!("since={since}&mutating=true")).await, [] as [Value; 0]);
    assert_eq!(calls(&bench, &format!("since={since}")).await.len(), 2);
    let somewhere = "127.0.0.1:9".parse().unwrap();
    bench.register(&group, somewhere).await;
    bench.deregister(&group, somewhere).await;
    let classes: Vec<_> =
        calls(&bench, &format!("since={since}&mutating=true")).await.iter().map(|c| c["class"].clone()).collect();
    assert_eq!(classes, ["register", "deregister"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_target_goes_from_unused_over_initial_to_healthy() {
    let bench = Bench::start(ElbConfig { time_scale: 2.0, ..quick() }).await;
    let front = bench.front("shared").await;
    let (group, backend) = (bench.group("web").await, Backend::start("web").await);
    bench.register(&group, backend.address).await;
    let (state, reason) = bench.health(&group, backend.address).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("unused", Some("Target.NotInUse")));
    let created = Instant::now();
    bench.rule(&front, &[(&group, 0)]).await;
    let (state, _) = bench.health(&group, backend.address).await;
    assert!(state == "initial" || created.elapsed() > Duration::from_secs(1), "{state}");
    bench.until_state(&group, backend.address, "healthy").await;
    // The registration alone takes two seconds of the modelled time.
    assert!(created.elapsed() >= Duration::from_secs(1));
    let unknown = "127.0.0.1:9".parse().unwrap();
    assert_eq!(bench.health(&group, unknown).await.1.as_deref(), Some("Target.NotRegistered"));
}

#[tokio::test]
async fn a_registration_of_two_hundred_targets_is_one_call_and_all_or_nothing() {
    let bench = Bench::start(quick()).await;
    let group = bench.group("web").await;
    let all: Vec<_> = (1..=200).map(|n| target(format!("127.9.0.{n}:8080").parse().unwrap())).collect();
    let mut bad = all.clone();
    bad.push(target("8.8.8.8:53".parse().unwrap()));
    let register = |targets| bench.aws.register_targets().target_group_arn(&group).set_targets(Some(targets)).send();
    let error = register(bad).await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_invalid_target_exception());
    let held = async || {
        let answer = bench.aws.describe_target_health().target_group_arn(&group).send().await.unwrap();
        answer.target_health_descriptions().len()
    };
    assert_eq!(held().await, 0);
    register(all).await.unwrap();
    assert_eq!(held().await, 200);
}

#[tokio::test]
async fn the_control_api_names_field_and_remedy_and_its_load_balancers_are_like_any_other() {
    let bench = Bench::start(quick()).await;
    let body = json!({"name": "shared", "tags": {"env": "prod"}, "listeners": [{"port": 443, "protocol": "HTTPS"}, {"port": 18_081}]});
    let made = bench.control("POST", "/load-balancers", body.clone()).await;
    let read = bench.aws.describe_load_balancers().names("shared").send().await.unwrap();
    let lb = &read.load_balancers()[0];
    assert_eq!(lb.load_balancer_arn(), made["arn"].as_str());
    assert_eq!(lb.dns_name(), made["dns_name"].as_str());
    assert_eq!(lb.state().unwrap().code().unwrap().as_str(), "active");
    let listeners =
        bench.aws.describe_listeners().load_balancer_arn(made["arn"].as_str().unwrap()).send().await.unwrap();
    let ports: Vec<_> =
        listeners.listeners().iter().map(|l| (l.port().unwrap(), l.protocol().unwrap().as_str())).collect();
    assert_eq!(ports, [(443, "HTTPS"), (18_081, "HTTP")]);
    let state = bench.get("/state").await;
    assert_eq!(state["load_balancers"][0]["tags"]["env"], "prod");
    assert_eq!(state["load_balancers"][0]["listeners"].as_array().unwrap().len(), 2);
    assert_eq!(bench.get("/dataplane").await.as_array().unwrap().len(), 2);
    for (bad, named) in [
        (body, "shared"),
        (json!({"name": "x", "listeners": [{"port": 0}]}), "port"),
        (json!({"name": "x", "listeners": [{"port": 80, "protocol": "TCP"}]}), "TCP"),
        (json!({"name": "-x"}), "hyphen"),
    ] {
        let (status, refused) = bench.control_raw("POST", "/load-balancers", bad).await;
        assert_eq!(status, 400);
        assert!(refused["error"].as_str().unwrap().contains(named), "{refused}");
    }
    assert_eq!(calls(&bench, "mutating=true").await, [] as [Value; 0], "control calls are not in the log");
}
