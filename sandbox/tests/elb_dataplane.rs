//! The data plane of the sandbox's load balancers, with real connections to real backends. The API is driven with the
//! unmodified AWS SDK.

mod elb_support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aws_sdk_elasticloadbalancingv2::types::{ProtocolEnum, TargetDescription};
use elb_support::{Backend, Bench, Front, Line, Visitor, forward, path, quick, until};
use serde_json::json;
use switchyard_sandbox::elb::ElbConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A group with one healthy target behind a rule; the backend is returned with it.
async fn served_group(bench: &Bench, name: &'static str) -> (String, Backend) {
    let (group, backend) = (bench.group(name).await, Backend::start(name).await);
    bench.register(&group, backend.address).await;
    (group, backend)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_requests_split_ninety_to_ten_within_the_binomial_interval() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (blue, blue_backend) = served_group(&bench, "blue").await;
    let (green, green_backend) = served_group(&bench, "green").await;
    let (dark, _dark_backend) = served_group(&bench, "dark").await;
    bench.rule(&front, &[(&blue, 90), (&green, 10), (&dark, 0)]).await;
    bench.until_state(&blue, blue_backend.address, "healthy").await;
    bench.until_state(&green, green_backend.address, "healthy").await;
    bench.control("POST", "/counters/reset", json!({})).await;
    let mut counts = BTreeMap::<String, u32>::new();
    let visitor = Visitor::of(&front);
    for _ in 0..5_000 {
        let got = visitor.get("/").await;
        assert_eq!(got.status, 200);
        *counts.entry(got.group.unwrap()).or_default() += 1;
    }
    // 99.9 % of a binomial with n = 5000, p = 0.1: 500 +- 3.29 x sqrt(5000 x 0.1 x 0.9) = 500 +- 69.8.
    assert!((430..=570).contains(&counts["green"]), "{counts:?}");
    assert!(!counts.contains_key("dark"), "{counts:?}");
    let counters = bench.get("/counters").await;
    assert_eq!(counters["target_groups"][&green]["requests"], counts["green"]);
    assert_eq!(
        counters["target_groups"][&green]["targets"][green_backend.address.to_string()]["target_2xx"],
        counts["green"]
    );
    assert_eq!(counters["load_balancers"][&front.arn]["requests"], 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_target_gets_no_new_requests_and_finishes_what_it_has() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, leaving) = served_group(&bench, "web").await;
    bench.attribute(&group, "deregistration_delay.timeout_seconds", "100").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, leaving.address, "healthy").await;
    let slow = tokio::spawn({
        let visitor = Visitor::of(&front);
        async move { visitor.get("/slow").await }
    });
    until("the slow request is under way", async || leaving.waiting.load(Ordering::SeqCst) == 1).await;
    let staying = Backend::start("staying").await;
    bench.register(&group, staying.address).await;
    bench.until_state(&group, staying.address, "healthy").await;
    bench.deregister(&group, leaving.address).await;
    let (state, reason) = bench.health(&group, leaving.address).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("draining", Some("Target.DeregistrationInProgress")));
    let before = leaving.served();
    for _ in 0..50 {
        assert_eq!(Visitor::of(&front).get("/").await.body, "staying");
    }
    assert_eq!(leaving.served(), before);
    leaving.release();
    let got = slow.await.unwrap();
    assert_eq!((got.status, got.body.as_str()), (200, "web"));
    until("the drained target is forgotten", async || bench.health(&group, leaving.address).await.0 == "unused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_the_deregistration_delay_is_cut_and_counted_against_the_load_balancer() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, backend) = served_group(&bench, "web").await;
    bench.attribute(&group, "deregistration_delay.timeout_seconds", "10").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, backend.address, "healthy").await;
    let slow = tokio::spawn({
        let visitor = Visitor::of(&front);
        async move { visitor.get("/slow").await }
    });
    until("the slow request is under way", async || backend.waiting.load(Ordering::SeqCst) == 1).await;
    let started = Instant::now();
    bench.deregister(&group, backend.address).await;
    assert_eq!(slow.await.unwrap().status, 502);
    // 10 seconds at twenty times the speed.
    assert!(started.elapsed() >= Duration::from_millis(500), "cut after {:?}", started.elapsed());
    let counters = bench.get("/counters").await;
    assert_eq!(counters["target_groups"][&group]["elb_502"], 1);
    assert_eq!(Visitor::of(&front).get("/").await.status, 503, "nothing is registered any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_target_is_left_out_and_a_group_without_healthy_targets_fails_open() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, one) = served_group(&bench, "one").await;
    let two = Backend::start("two").await;
    bench.register(&group, two.address).await;
    assert_eq!(bench.health(&group, one.address).await.1.as_deref(), Some("Target.NotInUse"));
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, one.address, "healthy").await;
    bench.until_state(&group, two.address, "healthy").await;
    one.health.store(500, Ordering::SeqCst);
    bench.until_state(&group, one.address, "unhealthy").await;
    assert_eq!(bench.health(&group, one.address).await.1.as_deref(), Some("Target.ResponseCodeMismatch"));
    let visitor = Visitor::of(&front);
    for _ in 0..20 {
        assert_eq!(visitor.get("/").await.body, "two");
    }
    two.health.store(500, Ordering::SeqCst);
    bench.until_state(&group, two.address, "unhealthy").await;
    let before = (one.served(), two.served());
    for _ in 0..20 {
        assert_eq!(visitor.get("/").await.status, 200);
    }
    assert!(one.served() > before.0 && two.served() > before.1, "both get requests while the group fails open");
    one.health.store(200, Ordering::SeqCst);
    bench.until_state(&group, one.address, "healthy").await;
    assert_eq!(visitor.get("/").await.body, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_an_empty_group_and_a_rule_without_weights_get_503() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (full, backend) = served_group(&bench, "full").await;
    let empty = bench.group("empty").await;
    let rule = bench.rule(&front, &[(&full, 1), (&empty, 1)]).await;
    bench.until_state(&full, backend.address, "healthy").await;
    let visitor = Visitor::of(&front);
    let mut counts = BTreeMap::<u16, u32>::new();
    for _ in 0..400 {
        *counts.entry(visitor.get("/").await.status).or_default() += 1;
    }
    // Half of 400, with a margin of more than six standard deviations of 10.
    assert!((130..=270).contains(&counts[&503]), "{counts:?}");
    assert_eq!(bench.get("/counters").await["target_groups"][&empty]["elb_503"], counts[&503]);
    let zero = forward(&[(&full, 0), (&empty, 0)], None);
    bench.aws.modify_rule().rule_arn(&rule).actions(zero).send().await.unwrap();
    for _ in 0..20 {
        assert_eq!(visitor.get("/").await.status, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_change_reaches_the_nodes_late_and_never_comes_back() {
    let propagation = Duration::from_secs(20);
    let bench = Bench::start(ElbConfig { propagation, ..quick() }).await;
    let front = bench.front("shared").await;
    let (old, old_backend) = served_group(&bench, "old").await;
    let (new, new_backend) = served_group(&bench, "new").await;
    let rule = bench.rule(&front, &[(&old, 1), (&new, 0)]).await;
    bench.until_state(&old, old_backend.address, "healthy").await;
    bench.until_state(&new, new_backend.address, "healthy").await;
    // Connections take turns on the nodes, so these two see both.
    let mut lines = [Line::to(&front).await, Line::to(&front).await];
    for line in &mut lines {
        until("the rule is known", async || line.group().await.as_deref() == Some("old")).await;
    }
    let started = Instant::now();
    bench.aws.modify_rule().rule_arn(&rule).actions(forward(&[(&old, 0), (&new, 1)], None)).send().await.unwrap();
    let mut moved = [false, false];
    while moved != [true, true] {
        assert!(started.elapsed() < elb_support::DEADLINE, "{moved:?}");
        for (line, moved) in lines.iter_mut().zip(&mut moved) {
            let group = line.group().await.unwrap();
            // Half of 20 seconds at twenty times the speed is the earliest.
            assert!(group == "old" || started.elapsed() >= propagation / 40, "after {:?}", started.elapsed());
            assert!(group == "new" || !*moved, "a node went back to the old rules");
            *moved = group == "new";
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_the_group_cookie_stays_even_when_the_weight_drops_to_zero() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (a, a_backend) = served_group(&bench, "a").await;
    let (b, b_backend) = served_group(&bench, "b").await;
    let rule = bench.rule(&front, &[(&a, 1), (&b, 1)]).await;
    let sticky = |weights: [i32; 2]| forward(&[(&a, weights[0]), (&b, weights[1])], Some(600));
    bench.aws.modify_rule().rule_arn(&rule).actions(sticky([1, 1])).send().await.unwrap();
    bench.until_state(&a, a_backend.address, "healthy").await;
    bench.until_state(&b, b_backend.address, "healthy").await;
    let visitor = Visitor::of(&front);
    let first = visitor.get("/").await;
    let cookie = first.cookies.iter().find(|c| c.starts_with("AWSALBTG=")).unwrap().clone();
    let home = first.group.unwrap();
    for _ in 0..30 {
        let got = visitor.send("GET", "/", &[("cookie", &cookie)], "").await.unwrap();
        assert_eq!(got.group.as_deref(), Some(home.as_str()));
    }
    let weights = if home == "a" { [0, 1] } else { [1, 0] };
    bench.aws.modify_rule().rule_arn(&rule).actions(sticky(weights)).send().await.unwrap();
    let stuck = visitor.send("GET", "/", &[("cookie", &cookie)], "").await.unwrap();
    assert_eq!(stuck.group.as_deref(), Some(home.as_str()), "stickiness takes precedence over weights");
    for _ in 0..20 {
        assert_ne!(visitor.get("/").await.group.as_deref(), Some(home.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_cookie_keeps_a_client_on_its_target() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, one) = served_group(&bench, "one").await;
    let two = Backend::start("two").await;
    bench.register(&group, two.address).await;
    bench.attribute(&group, "stickiness.enabled", "true").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, one.address, "healthy").await;
    bench.until_state(&group, two.address, "healthy").await;
    let visitor = Visitor::of(&front);
    let first = visitor.get("/").await;
    let cookie = first.cookies.iter().find(|c| c.starts_with("AWSALB=")).unwrap().clone();
    for _ in 0..10 {
        let got = visitor.send("GET", "/", &[("cookie", &cookie)], "").await.unwrap();
        assert_eq!(got.body, first.body);
    }
    let (home, other) = if first.body == "one" { (&one, "two") } else { (&two, "one") };
    bench.deregister(&group, home.address).await;
    let got = visitor.send("GET", "/", &[("cookie", &cookie)], "").await.unwrap();
    assert_eq!(got.body, other, "a draining target lets its sticky clients go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_target_is_502_and_a_silent_one_504_and_both_are_counted_apart() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, backend) = served_group(&bench, "web").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, backend.address, "healthy").await;
    let idle = aws_sdk_elasticloadbalancingv2::types::LoadBalancerAttribute::builder()
        .key("idle_timeout.timeout_seconds")
        .value("1")
        .build();
    bench.aws.modify_load_balancer_attributes().load_balancer_arn(&front.arn).attributes(idle).send().await.unwrap();
    let visitor = Visitor::of(&front);
    assert_eq!(visitor.get("/slow").await.status, 504);
    let address = backend.address;
    drop(backend);
    until("the backend is gone", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    let got = visitor.get("/").await;
    assert_eq!((got.status, got.group.as_deref()), (502, Some("web")));
    assert_eq!(got.target.as_deref(), Some(address.to_string().as_str()));
    let counters = bench.get("/counters").await;
    let counted = &counters["target_groups"][&group];
    assert_eq!((&counted["elb_502"], &counted["elb_504"]), (&json!(1), &json!(1)), "{counted}");
}

/// A server that answers one request per connection without announcing it, and closes when the second arrives.
async fn one_shot_server(served: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let mut buffer = [0_u8; 4096];
                if stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    served.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    // Closes with the next request unanswered, as a server does whose idle timer just fired.
                    let _ = stream.read(&mut buffer).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_the_target_closed_costs_no_bodyless_request() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let served = Arc::new(AtomicUsize::new(0));
    let address = one_shot_server(Arc::clone(&served)).await;
    let group = bench.group("web").await;
    bench.register(&group, address).await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, address, "healthy").await;
    let visitor = Visitor::of(&front);
    for _ in 0..50 {
        assert_eq!(visitor.get("/").await.status, 200);
    }
    assert!(served.load(Ordering::SeqCst) >= 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_tried_by_priority_and_the_default_action_comes_last() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (a, _a_backend) = served_group(&bench, "a").await;
    let (b, _b_backend) = served_group(&bench, "b").await;
    let create = |priority: i32, pattern: &str, group: &str| {
        let call = bench.aws.create_rule().listener_arn(&front.listener).priority(priority);
        call.conditions(path(pattern)).actions(forward(&[(group, 1)], None)).send()
    };
    let wide = create(20, "/shop*", &a).await.unwrap().rules()[0].rule_arn().unwrap().to_owned();
    let narrow = create(10, "/shop/b*", &b).await.unwrap().rules()[0].rule_arn().unwrap().to_owned();
    let visitor = Visitor::of(&front);
    assert_eq!(visitor.get("/shop/a").await.group.as_deref(), Some("a"));
    assert_eq!(visitor.get("/shop/b?x=1").await.group.as_deref(), Some("b"));
    assert_eq!(visitor.get("/elsewhere").await.status, 404);
    let pair = |arn: &str, priority: i32| {
        aws_sdk_elasticloadbalancingv2::types::RulePriorityPair::builder().rule_arn(arn).priority(priority).build()
    };
    let swap = bench.aws.set_rule_priorities().rule_priorities(pair(&wide, 10)).rule_priorities(pair(&narrow, 20));
    swap.send().await.unwrap();
    assert_eq!(visitor.get("/shop/b").await.group.as_deref(), Some("a"));
    assert_eq!(bench.get("/counters").await["load_balancers"][&front.arn]["configured"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_pass_through_with_the_forwarded_headers() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, _backend) = served_group(&bench, "web").await;
    bench.rule(&front, &[(&group, 1)]).await;
    let body = "x".repeat(1 << 20);
    let headers =
        [("x-forwarded-for", "10.9.9.9"), ("connection", "x-drop"), ("x-drop", "1"), ("host", "shop.example")];
    let got = Visitor::of(&front).send("POST", "/echo?q=1", &headers, &body).await.unwrap();
    assert_eq!(got.status, 200);
    let (head, echoed) = got.body.split_once('\n').unwrap();
    assert!(head.starts_with("POST /echo?q=1"), "{head}");
    for part in [
        r#""x-forwarded-for": "10.9.9.9, 127.0.0.1""#,
        r#""x-forwarded-proto": "http""#,
        r#""x-forwarded-port": "18080""#,
        r#""host": "shop.example""#,
        r#""x-amzn-trace-id""#,
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert!(!head.contains("x-drop"));
    assert!(echoed == body, "the body arrives as it was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_can_be_overridden_and_given_back() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, one) = served_group(&bench, "one").await;
    let two = Backend::start("two").await;
    bench.register(&group, two.address).await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, one.address, "healthy").await;
    bench.until_state(&group, two.address, "healthy").await;
    let set = |state: serde_json::Value| {
        let body =
            json!({"target_group_arn": group, "id": one.address.ip(), "port": one.address.port(), "state": state});
        bench.control("POST", "/targets/health", body)
    };
    set(json!("unhealthy")).await;
    assert_eq!(bench.health(&group, one.address).await.0, "unhealthy");
    let visitor = Visitor::of(&front);
    for _ in 0..10 {
        assert_eq!(visitor.get("/").await.body, "two");
    }
    set(json!(null)).await;
    assert_eq!(bench.health(&group, one.address).await.0, "healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_moves_to_another_port_leaves_the_old_one_and_keeps_its_rules() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, _backend) = served_group(&bench, "web").await;
    bench.rule(&front, &[(&group, 1)]).await;
    let moved = bench.aws.modify_listener().listener_arn(&front.listener).port(18_090);
    let moved = moved.default_actions(forward(&[(&group, 1)], None)).send().await.unwrap();
    assert_eq!(moved.listeners()[0].port(), Some(18_090));
    until("the old socket is closed", async || tokio::net::TcpStream::connect(front.address).await.is_err()).await;
    let listening = bench.get("/dataplane").await;
    assert_eq!((&listening[0]["port"], &listening[0]["load_balancer"]), (&json!(18_090), &json!("shared")));
    let address = listening[0]["address"].as_str().unwrap().parse().unwrap();
    let front = Front { address, ..front };
    assert_eq!(Visitor::of(&front).get("/").await.group.as_deref(), Some("web"));
    let rules = bench.aws.describe_rules().listener_arn(&front.listener).send().await.unwrap();
    assert_eq!(rules.rules().len(), 2);
    // What the default action uses now is in use, and the default rule tells of it.
    assert!(rules.rules()[1].is_default().unwrap() && rules.rules()[1].actions()[0].forward_config().is_some());
    let missing = forward(&[("arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/x/1", 1)], None);
    let error = bench.aws.modify_listener().listener_arn(&front.listener).default_actions(missing).send().await;
    assert!(error.unwrap_err().as_service_error().unwrap().is_target_group_not_found_exception());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_listener_closes_and_its_groups_are_unused() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, backend) = served_group(&bench, "web").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, backend.address, "healthy").await;
    assert_eq!(Visitor::of(&front).get("/").await.status, 200);
    bench.aws.delete_listener().listener_arn(&front.listener).send().await.unwrap();
    until("the socket is closed", async || tokio::net::TcpStream::connect(front.address).await.is_err()).await;
    let (state, reason) = bench.health(&group, backend.address).await;
    assert_eq!((state.as_str(), reason.as_deref()), ("unused", Some("Target.NotInUse")));
    assert_eq!(bench.get("/dataplane").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_of_the_application_starts_stickiness_where_the_group_asks_for_it() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, one) = served_group(&bench, "one").await;
    let two = Backend::start("two").await;
    bench.register(&group, two.address).await;
    bench.attribute(&group, "stickiness.app_cookie.cookie_name", "SESSION").await;
    bench.attribute(&group, "stickiness.type", "app_cookie").await;
    bench.attribute(&group, "stickiness.enabled", "true").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, one.address, "healthy").await;
    bench.until_state(&group, two.address, "healthy").await;
    let visitor = Visitor::of(&front);
    assert!(visitor.get("/").await.cookies.is_empty(), "no session, no stickiness");
    let login = visitor.get("/login").await;
    let cookie = login.cookies.iter().find(|c| c.starts_with("AWSALBAPP-0=")).unwrap().clone();
    for _ in 0..10 {
        let got = visitor.send("GET", "/", &[("cookie", &cookie)], "").await.unwrap();
        assert_eq!(got.target, login.target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_passed_on_as_broken_and_counted() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let (group, backend) = served_group(&bench, "web").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, backend.address, "healthy").await;
    let broken = Visitor::of(&front).send("GET", "/broken", &[], "").await;
    assert!(broken.is_err(), "{broken:?}");
    until("it is counted", async || bench.get("/counters").await["target_groups"][&group]["broken"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_targets_are_reached_at_the_address_of_their_instance() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let backend = Backend::start("node").await;
    let group = bench.aws.create_target_group().name("nodes").protocol(ProtocolEnum::Http);
    let group = group.port(backend.address.port().into()).vpc_id(&bench.config.vpc_id).health_check_path("/health");
    let group = group.send().await.unwrap().target_groups()[0].target_group_arn().unwrap().to_owned();
    let node = TargetDescription::builder().id("i-0123456789abcdef0").build();
    let register = || bench.aws.register_targets().target_group_arn(&group).targets(node.clone()).send();
    let error = register().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_invalid_target_exception());
    bench.control("POST", "/instances", json!({"id": "i-0123456789abcdef0", "ip": "127.0.0.1"})).await;
    register().await.unwrap();
    bench.rule(&front, &[(&group, 1)]).await;
    let got = Visitor::of(&front).get("/").await;
    assert_eq!((got.status, got.body.as_str()), (200, "node"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hundred_connections_in_parallel_lose_nothing_while_targets_come_and_go() {
    let bench = Bench::start(quick()).await;
    let front: Front = bench.front("shared").await;
    let (group, first) = served_group(&bench, "first").await;
    bench.attribute(&group, "deregistration_delay.timeout_seconds", "60").await;
    bench.rule(&front, &[(&group, 1)]).await;
    bench.until_state(&group, first.address, "healthy").await;
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let (visitor, done) = (Visitor::of(&front), Arc::clone(&done));
            tokio::spawn(async move {
                let mut failed = 0;
                while !done.load(Ordering::SeqCst) {
                    failed +=
                        usize::from(visitor.send("GET", "/", &[], "").await.map_or(true, |got| got.status != 200));
                }
                failed
            })
        })
        .collect();
    let mut last = first;
    for name in ["second", "third", "fourth"] {
        let next = Backend::start(name).await;
        bench.register(&group, next.address).await;
        bench.until_state(&group, next.address, "healthy").await;
        bench.deregister(&group, last.address).await;
        until("the old target is forgotten", async || bench.health(&group, last.address).await.0 == "unused").await;
        last = next;
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), 0);
    }
}

/// Sends bytes on a new connection and reads until the other end closes or `enough` is there.
async fn raw(front: &Front, bytes: &[u8], enough: impl Fn(&str) -> bool) -> String {
    let mut stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
    // A refusal may come, and the connection end, before everything is written.
    let _ = stream.write_all(bytes).await;
    let mut text = Vec::new();
    let reading = async {
        let mut buffer = [0_u8; 4096];
        while !enough(&String::from_utf8_lossy(&text)) {
            match stream.read(&mut buffer).await {
                Ok(n) if n > 0 => text.extend_from_slice(&buffer[..n]),
                _ => break,
            }
        }
    };
    tokio::time::timeout(elb_support::DEADLINE, reading).await.expect("an answer or an end");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_and_malformed_or_oversized_heads_are_refused() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    let two = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n";
    let text = raw(&front, two, |t| t.matches("HTTP/1.1 404").count() == 2).await;
    assert_eq!(text.matches("HTTP/1.1 404").count(), 2, "{text}");
    let text = raw(&front, b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", |_| false).await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    let text = raw(&front, b"nonsense\r\n\r\n", |_| false).await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(128 << 10));
    let text = raw(&front, long.as_bytes(), |t| t.contains("\r\n\r\n")).await;
    assert!(!text.contains("404"), "{text}");
    assert_eq!(Visitor::of(&front).get("/").await.status, 404, "others are not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_has_ended_when_serve_returns_and_it_serves_once_only() {
    let bench = Bench::start(quick()).await;
    let front = bench.front("shared").await;
    assert_eq!(Visitor::of(&front).get("/").await.status, 404);
    let second = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = bench.elb.serve(second, tokio_util::sync::CancellationToken::new()).await;
    assert!(refused.unwrap_err().to_string().contains("already being served"));
    let api: std::net::SocketAddr = bench.endpoint.trim_start_matches("http://").parse().unwrap();
    bench.stop().await.unwrap();
    assert!(tokio::net::TcpStream::connect(front.address).await.is_err());
    assert!(tokio::net::TcpStream::connect(api).await.is_err());
}
