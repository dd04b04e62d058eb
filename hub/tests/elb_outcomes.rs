//! How a call may end, and what the hub may conclude: nothing was changed, or nobody knows. Each is made once.

mod elb_support;

use std::time::Duration;

use elb_support::{ACCOUNT, DEADLINE, Fake, Reply, config};
use switchyard_core::{
    arn::{ListenerArn, RuleArn},
    budget::{Bucket, Class},
    execute::Outcome,
    plan::step::Action,
};
use switchyard_hub::elb::{Elb, ElbConfig, ElbError, ReadError, bucket_of};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

fn action() -> Action {
    Action::DeleteRule {
        listener: ListenerArn::new(format!("{ACCOUNT}:listener/app/shared/1/2")).unwrap(),
        rule: RuleArn::new(format!("{ACCOUNT}:listener-rule/app/shared/1/2/3")).unwrap(),
    }
}

/// Makes one write and one read against a server that always does the same; the write must have been sent exactly once.
async fn ends(reply: Reply) -> (Outcome, ReadError) {
    let fake = Fake::always(reply).await;
    let elb = fake.elb().await;
    let outcome = elb.apply(&action(), DEADLINE).await;
    let writes = fake.asked();
    assert_eq!(writes.len(), 1, "a write is never retried: {writes:?}");
    let error = elb.limits(Class::Audit).await.unwrap_err();
    assert_eq!(fake.asked().len(), 2, "a read is never retried");
    (outcome, error)
}

fn raw(status: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Raw(format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{body}"))
}

#[tokio::test]
async fn an_error_of_aws_is_a_refusal_with_its_code_whether_the_sdk_knows_it_or_not() {
    for (status, code, remedy) in [
        (400, "TooManyRules", ""),
        (400, "RuleNotFound", ""),
        (400, "ValidationError", ""),
        (403, "AccessDenied", "docs/iam.md"),
        (403, "ExpiredToken", "credentials"),
        (403, "SignatureDoesNotMatch", "credentials"),
    ] {
        let (outcome, error) = ends(Reply::Error(status, code, "because")).await;
        let Outcome::Refused { code: refused, message } = outcome else { panic!("{outcome:?}") };
        assert_eq!(refused, code);
        assert!(message.starts_with("because") && message.contains(remedy), "{code}: {message}");
        assert_eq!(message == "because", remedy.is_empty(), "{code}: {message}");
        let ReadError::Refused { code: read, message: told, .. } = error else { panic!("{error:?}") };
        assert_eq!((read.as_str(), told), (code, message));
    }
}

#[tokio::test]
async fn throttling_is_told_apart_and_slows_the_budget_of_its_bucket() {
    for code in ["Throttling", "ThrottlingException", "RequestLimitExceeded"] {
        let fake = Fake::always(Reply::Error(400, code, "Rate exceeded")).await;
        let elb = fake.elb().await;
        let pace = |bucket: Bucket| {
            let views = elb.budget().snapshot();
            views.iter().find(|view| view.bucket == bucket).unwrap().per_second
        };
        let outcome = elb.apply(&action(), DEADLINE).await;
        let throttled = Outcome::Throttled { message: "Rate exceeded".into() };
        assert_eq!(outcome, throttled);
        assert_eq!((pace(Bucket::Modify), pace(Bucket::Describe)), (500.0, 1000.0));
        let error = elb.limits(Class::Audit).await.unwrap_err();
        assert!(matches!(error, ReadError::Throttled { .. }), "{error:?}");
        assert_eq!((pace(Bucket::Describe), pace(Bucket::Register)), (500.0, 1000.0));
    }
}

#[tokio::test]
async fn a_server_in_trouble_leaves_a_write_unknown() {
    for reply in [
        Reply::Error(500, "InternalFailure", "sorry"),
        Reply::Error(503, "ServiceUnavailable", "sorry"),
        raw("500 Internal Server Error", "<html><body>Oops</body></html>"),
        raw("502 Bad Gateway", ""),
    ] {
        let (outcome, error) = ends(reply.clone()).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{reply:?}: {outcome:?}");
        assert!(matches!(error, ReadError::Unreachable { .. }), "{reply:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_of_aws_leaves_a_write_unknown() {
    for reply in [raw("403 Forbidden", "<html>proxy says no</html>"), raw("302 Found", ""), Reply::Raw("what?".into())]
    {
        let (outcome, error) = ends(reply.clone()).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{reply:?}: {outcome:?}");
        assert!(matches!(error, ReadError::Unreachable { .. }), "{reply:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_leaves_a_write_unknown() {
    for reply in [Reply::Cut, Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n<DeleteRuleResp".into())] {
        let (outcome, error) = ends(reply.clone()).await;
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{reply:?}: {outcome:?}");
        assert!(matches!(error, ReadError::Unreachable { .. }), "{reply:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_the_end() {
    let body = format!("<DeleteRuleResponse><!-- {} -->", "x".repeat(17 << 20));
    let (outcome, error) = ends(raw("200 OK", &body)).await;
    let Outcome::Unknown { message } = outcome else { panic!("{outcome:?}") };
    assert!(message.contains("length limit exceeded"), "{message}");
    assert!(matches!(error, ReadError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn no_answer_in_time_leaves_a_write_unknown() {
    let fake = Fake::always(Reply::Silence).await;
    let elb = fake.elb().await;
    let outcome = elb.apply(&action(), Duration::from_millis(300)).await;
    let Outcome::Unknown { message } = outcome else { panic!("{outcome:?}") };
    assert!(message.contains("no answer within 300ms"), "{message}");
}

#[tokio::test]
async fn the_configured_limit_holds_where_the_caller_allows_more() {
    let fake = Fake::always(Reply::Silence).await;
    let config = ElbConfig { call_timeout: Duration::from_millis(1500), ..config(fake.address) };
    let elb = Elb::connect(config).await.unwrap();
    assert!(matches!(elb.apply(&action(), DEADLINE).await, Outcome::Unknown { .. }));
    let error = elb.limits(Class::Audit).await.unwrap_err();
    assert!(matches!(error, ReadError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_refused_connection_proves_that_nothing_was_changed() {
    // Bound and never listening: the address stays taken, and nobody accepts.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let elb = Elb::connect(config(socket.local_addr().unwrap())).await.unwrap();
    let outcome = elb.apply(&action(), DEADLINE).await;
    assert!(matches!(outcome, Outcome::Unreachable { .. }), "{outcome:?}");
    let error = elb.limits(Class::Audit).await.unwrap_err();
    assert!(matches!(error, ReadError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_is_never_accepted_proves_that_nothing_was_changed() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Fill the queue of connections that wait to be accepted; the system then answers no further one.
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 100, "the queue is bounded");
    }
    let config = ElbConfig { call_timeout: Duration::from_millis(2500), ..config(address) };
    let elb = Elb::connect(config).await.unwrap();
    let outcome = elb.apply(&action(), DEADLINE).await;
    assert!(matches!(outcome, Outcome::Unreachable { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closes_is_replaced() {
    let fake = Fake::start(|_| raw("200 OK", "<DeleteRuleResponse/>")).await;
    let elb = fake.elb().await;
    for _ in 0..3 {
        let done = Outcome::Done { created: None };
        assert_eq!(elb.apply(&action(), DEADLINE).await, done);
    }
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn calls_are_counted_by_operation_and_outcome() {
    let fake = Fake::always(Reply::Error(400, "Throttling", "Rate exceeded")).await;
    let config = config(fake.address);
    let metrics = config.metrics.clone();
    let elb = Elb::connect(config).await.unwrap();
    elb.apply(&action(), DEADLINE).await;
    let text = metrics.encoded().unwrap();
    for line in [
        r#"switchyard_hub_aws_calls_total{operation="DeleteRule",outcome="throttled"} 1"#,
        r#"switchyard_hub_aws_throttles_total{bucket="modify"} 1"#,
        r#"switchyard_hub_aws_call_seconds_count{operation="DeleteRule",outcome="throttled"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn a_write_takes_no_token_of_its_own_and_a_read_takes_one_a_page() {
    let fake = Fake::always(Reply::Result(String::new())).await;
    let elb = fake.elb().await;
    elb.apply(&action(), DEADLINE).await;
    elb.limits(Class::Audit).await.unwrap();
    let views = elb.budget().snapshot();
    let admitted = |bucket: Bucket| {
        let view = views.iter().find(|view| view.bucket == bucket).unwrap();
        view.admitted.iter().sum::<u64>()
    };
    assert_eq!(admitted(bucket_of(&action())), 0, "the engine takes it, between its two looks at the lease");
    assert_eq!(admitted(Bucket::Describe), 1);
}

#[tokio::test]
async fn settings_that_are_not_usable_are_refused_with_the_remedy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = config(listener.local_addr().unwrap());
    let with = |change: fn(&mut ElbConfig)| {
        let mut config = good.clone();
        change(&mut config);
        async move { Elb::connect(config).await.err() }
    };
    assert_eq!(with(|_| {}).await, None);
    let error = with(|config| config.region = "EU".into()).await.unwrap();
    assert_eq!(error.to_string(), "AWS region \"EU\" is not a region name; use one such as eu-west-1");
    let plain = with(|config| config.endpoint_url = Some("http://10.0.0.1".into())).await;
    assert!(matches!(plain, Some(ElbError::Endpoint { .. })), "{plain:?}");
    let zero = with(|config| config.call_timeout = Duration::ZERO).await;
    assert!(matches!(zero, Some(ElbError::CallTimeout { .. })), "{zero:?}");
}
