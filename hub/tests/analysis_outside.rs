//! Prometheus servers and webhooks as they are when something is wrong: slow, gone, redirecting, answering nonsense, breaking off.
//! Whatever comes, a measurement ends in time, and what is no number or verdict is no data with a reason. A real Prometheus is in
//! `tests/tests/measuring`.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use switchyard_core::{
    ids::{ClusterName, PolicyKey, ShiftId, SourceName, Weight},
    shift::analysis::{GateQuery, Measure, MeasuredPolicy, Reading},
};
use switchyard_hub::analysis::{Analysis, AnalysisArgs, AnalysisConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// How a server answers.
#[derive(Clone, Debug)]
enum Script {
    /// These bytes, then the end of the connection.
    Says(Vec<u8>),
    /// These bytes, and then nothing more while the connection stays open.
    Stalls(Vec<u8>),
}

/// A server that answers by its script and keeps what it was sent.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_one(mut stream: TcpStream, script: Script, requests: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut seen = Vec::new();
    let mut buffer = [0_u8; 4096];
    let whole = |seen: &[u8]| {
        let text = String::from_utf8_lossy(seen).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let line = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))?;
        (body.len() >= line.parse().ok()?).then_some(text)
    };
    let request = loop {
        let count = stream.read(&mut buffer).await?;
        seen.extend_from_slice(&buffer[..count]);
        // The begin of a TLS handshake, which this server takes for nonsense, as a plain one does.
        if seen.first() == Some(&0x16) {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
            return stream.shutdown().await;
        }
        if let Some(request) = whole(&seen) {
            break request;
        }
        if count == 0 {
            return Ok(());
        }
    };
    requests.lock().unwrap().push(request);
    let (bytes, stalls) = match script {
        Script::Says(bytes) => (bytes, false),
        Script::Stalls(bytes) => (bytes, true),
    };
    stream.write_all(&bytes).await?;
    if stalls {
        // Until the other side gives up.
        while stream.read(&mut buffer).await? > 0 {}
    }
    stream.shutdown().await
}

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let task = tokio::spawn({
            let requests = requests.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve_one(stream, script.clone(), requests.clone()));
                }
            }
        });
        Self { url, requests, task }
    }

    async fn answering(status: &str, body: &str) -> Self {
        Self::start(Script::Says(answer(status, body))).await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: application/json\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn scalar(value: &str) -> String {
    let now = Timestamp::now().as_second();
    format!(r#"{{"status":"success","data":{{"resultType":"scalar","result":[{now},"{value}"]}}}}"#)
}

/// An analysis that knows one server and one webhook, both named `main`, and gives up after `limit`.
async fn analysis(url: &str, token: Option<&str>, limit: Duration) -> Analysis {
    let named = |value: &str| vec![format!("main={value}")];
    let args = AnalysisArgs {
        prometheus: named(url),
        webhook: named(&format!("{url}/hook?suite=a")),
        prometheus_token: token.map(named).unwrap_or_default(),
        webhook_token: token.map(named).unwrap_or_default(),
        ..AnalysisArgs::default()
    };
    let (config, problems) = AnalysisConfig::new(&args, "eu-west-1");
    assert_eq!(problems, []);
    Analysis::connect(AnalysisConfig { time_limit: limit, ..config }).await.unwrap()
}

const LONG: Duration = Duration::from_secs(10);

fn ask(query: GateQuery) -> Measure {
    let cluster = |name: &str| ClusterName::new(name).unwrap();
    Measure {
        shift: ShiftId::new("shift-1").unwrap(),
        step: 0,
        percent: 25,
        gate: 0,
        name: SourceName::new("errors").unwrap(),
        query,
        policies: vec![MeasuredPolicy {
            policy: PolicyKey::new("shop", "checkout").unwrap(),
            weights: vec![(cluster("blue"), Weight::new(75).unwrap()), (cluster("green"), Weight::new(25).unwrap())],
            load_balancer: None,
            gaining: vec![(cluster("green"), None)],
        }],
    }
}

fn prometheus(query: &str) -> Measure {
    ask(GateQuery::Prometheus { source: SourceName::new("main").unwrap(), query: query.to_owned() })
}

fn webhook() -> Measure {
    ask(GateQuery::Webhook { endpoint: SourceName::new("main").unwrap() })
}

async fn measured(analysis: &Analysis, ask: &Measure) -> Reading {
    analysis.measure(ask, Timestamp::UNIX_EPOCH).await
}

fn why(reading: Reading) -> String {
    match reading {
        Reading::NoData(why) => why,
        other => panic!("there should be no data: {other:?}"),
    }
}

#[tokio::test]
async fn a_query_is_sent_as_a_form_with_the_token_of_the_moment() {
    let server = Server::answering("200 OK", &scalar("0.5")).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let analysis = analysis(&server.url, token.to_str(), LONG).await;
    let ask = prometheus(r#"sum(rate(a{b="c"}[1m])) + 1"#);
    assert_eq!(measured(&analysis, &ask).await, Reading::Value(0.5));
    std::fs::write(&token, "second\n").unwrap();
    assert_eq!(measured(&analysis, &ask).await, Reading::Value(0.5));
    let requests = server.requests();
    for (request, token) in requests.iter().zip(["first", "second"]) {
        assert!(request.starts_with("POST /api/v1/query HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("authorization: Bearer {token}\r\n")), "{request}");
        assert!(request.contains("content-type: application/x-www-form-urlencoded\r\n"), "{request}");
        assert!(
            request.contains("query=sum%28rate%28a%7Bb%3D%22c%22%7D%5B1m%5D%29%29%20%2B%201&timeout=8s"),
            "{request}"
        );
    }
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn a_server_that_says_nothing_or_stops_in_the_middle_ends_in_time() {
    let limit = Duration::from_millis(500);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"status\"".as_bytes().to_vec();
    for script in [Script::Stalls(Vec::new()), Script::Stalls(head)] {
        let server = Server::start(script.clone()).await;
        let analysis = analysis(&server.url, None, limit).await;
        for ask in [prometheus("1"), webhook()] {
            let begun = Instant::now();
            let why = why(measured(&analysis, &ask).await);
            assert!(why.contains("gave no answer within 500ms"), "{script:?}: {why}");
            assert!(begun.elapsed() >= limit, "{script:?}");
        }
    }
}

#[tokio::test]
async fn a_broken_answer_is_no_data_however_much_of_it_came() {
    // All of a good answer's bytes are there, but it claims more: what is missing could have been anything.
    let body = scalar("0");
    let short = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len() + 1);
    let chunk = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len());
    for bytes in [short.into_bytes(), chunk.into_bytes(), Vec::new(), b"nonsense\r\n\r\n".to_vec()] {
        let server = Server::start(Script::Says(bytes.clone())).await;
        let analysis = analysis(&server.url, None, LONG).await;
        for ask in [prometheus("1"), webhook()] {
            let why = why(measured(&analysis, &ask).await);
            assert!(why.contains("broke the answer off"), "{}: {why}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
    let long = format!(r#"{{"verdict":"Pass","message":"{}"}}"#, "x".repeat(2 << 20));
    let server = Server::answering("200 OK", &long).await;
    let analysis = analysis(&server.url, None, LONG).await;
    let text = why(measured(&analysis, &prometheus("1")).await);
    assert!(text.contains("more than 1048576 bytes"), "{text}");
    let text = why(measured(&analysis, &webhook()).await);
    assert!(text.contains("more than 65536 bytes"), "{text}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Server::answering("200 OK", &scalar("0")).await;
    let head = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}/api/v1/query\r\ncontent-length: 0\r\n\r\n",
        target.url
    );
    let server = Server::start(Script::Says(head.into_bytes())).await;
    let analysis = analysis(&server.url, None, LONG).await;
    for ask in [prometheus("1"), webhook()] {
        let why = why(measured(&analysis, &ask).await);
        assert!(why.contains("redirects are not followed"), "{why}");
    }
    assert_eq!(target.requests().len(), 0);
}

#[tokio::test]
async fn a_server_that_is_not_there_and_a_token_that_is_not_there_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let gone = analysis(&url, None, LONG).await;
    let text = why(measured(&gone, &prometheus("1")).await);
    assert!(text.contains("the Prometheus server main could not be reached"), "{text}");
    assert!(text.contains("refused"), "{text}");
    let server = Server::answering("200 OK", &scalar("0")).await;
    let untold = analysis(&server.url, Some("/nonexistent/token"), LONG).await;
    let text = why(measured(&untold, &prometheus("1")).await);
    assert!(text.contains("/nonexistent/token cannot be read"), "{text}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_or_that_nobody_vouches_for_is_not_believed() {
    let server = Server::answering("200 OK", &scalar("0")).await;
    let analysis = analysis(&server.url.replace("http://", "https://"), None, LONG).await;
    let text = why(measured(&analysis, &prometheus("1")).await);
    assert!(text.contains("could not be reached"), "{text}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn names_that_the_hub_was_not_given_are_no_data_and_no_request() {
    let server = Server::answering("200 OK", &scalar("0")).await;
    let analysis = analysis(&server.url, None, LONG).await;
    let other = SourceName::new("other").unwrap();
    for (query, word) in [
        (GateQuery::Prometheus { source: other.clone(), query: "1".to_owned() }, "--prometheus other=URL"),
        (GateQuery::Webhook { endpoint: other.clone() }, "--webhook other=URL"),
        (
            GateQuery::CloudWatch {
                metric: Default::default(),
                statistic: "Sum".to_owned(),
                period_seconds: 60,
                divided_by: None,
            },
            "--cloudwatch",
        ),
        (GateQuery::TargetHealth { min_healthy_percent: 100 }, "without asking"),
    ] {
        let why = why(measured(&analysis, &ask(query)).await);
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(server.requests().len(), 0);
    assert!(analysis.names().prometheus.contains(&SourceName::new("main").unwrap()));
    assert!(!analysis.names().cloudwatch);
}

#[tokio::test]
async fn a_webhook_is_asked_with_everything_it_needs_to_decide() {
    let server = Server::answering("200 OK", r#"{"verdict":"Fail","message":"2 of 9 checks\nfailed"}"#).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    let analysis = analysis(&server.url, token.to_str(), LONG).await;
    let wanted = Reading::Verdict { pass: Some(false), message: "2 of 9 checks failed".to_owned() };
    assert_eq!(measured(&analysis, &webhook()).await, wanted);
    let [request] = server.requests().try_into().expect("one request");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?suite=a HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("idempotency-key: shift-1.1.errors."), "{head}");
    assert!(head.contains("authorization: Bearer secret"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["policies"][0]["weights"], serde_json::json!({"blue": 75, "green": 25}), "{body}");
    assert_eq!((&body["shift"], &body["step"]), (&"shift-1".into(), &1.into()), "{body}");
}

#[tokio::test]
async fn a_measurement_that_is_dropped_leaves_nothing_behind() {
    let server = Server::start(Script::Stalls(Vec::new())).await;
    let analysis = analysis(&server.url, None, LONG).await;
    let ask = prometheus("1");
    {
        let asking = measured(&analysis, &ask);
        tokio::pin!(asking);
        let reached = async {
            while server.requests().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            reading = &mut asking => panic!("{reading:?}"),
            () = reached => {}
        }
    }
    // The next one is a question of its own.
    let other = Server::answering("200 OK", &scalar("7")).await;
    let analysis = self::analysis(&other.url, None, LONG).await;
    assert_eq!(measured(&analysis, &ask).await, Reading::Value(7.0));
}
