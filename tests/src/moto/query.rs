//! The query protocol of AWS spoken by hand, so that every byte of a request and of an answer is this file's: form-encoded POST,
//! XML back. Serves moto and the sandbox alike.

use std::{fmt::Write, time::Duration};

use anyhow::Context;
use http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use quick_xml::{
    Reader,
    events::{BytesRef, Event},
};
use serde_json::{Map, Value};

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// With this access key moto judges nobody (`tools/moto/server.py`).
pub const OPEN_KEY: &str = "test";

/// One service of AWS at one place, for one account.
#[derive(Clone, Debug)]
pub struct Api {
    url: String,
    version: &'static str,
    authorization: String,
    account: Option<String>,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Of the body.
    pub content_type: String,
    /// The header `x-amzn-requestid`.
    pub request_id: String,
    /// The body.
    pub body: String,
}

/// An XML element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: String,
    /// Its `xmlns`.
    pub namespace: String,
    /// Elements in it.
    pub children: Vec<Element>,
    /// Text in it.
    pub text: String,
}

impl Api {
    /// A service (`elasticloadbalancing`, `iam`, ...) with its API version, in a region; moto takes the region, the service and
    /// the partition from the scope of the signature, and does not verify the signature of the open key.
    pub fn new(url: &str, service: &str, version: &'static str, region: &str) -> Self {
        let scope = format!("{OPEN_KEY}/20260101/{region}/{service}/aws4_request");
        let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none");
        Self { url: url.to_owned(), version, authorization, account: None }
    }

    /// ELBv2 in a region.
    pub fn elb(url: &str, region: &str) -> Self {
        Self::new(url, "elasticloadbalancing", "2015-12-01", region)
    }

    /// The same service in an account of moto.
    #[must_use]
    pub fn in_account(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// One call, whatever comes of it.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn send(&self, action: &str, parameters: &[(String, String)]) -> anyhow::Result<Answer> {
        let mut body = format!("Action={action}&Version={}", self.version);
        for (name, value) in parameters {
            write!(body, "&{}={}", encode(name), encode(value))?;
        }
        self.raw(Method::POST, "/", &body).await
    }

    /// One call that has to succeed; gives what is in `<ActionResult>`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let parameters: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let answer = self.send(action, &parameters).await?;
        anyhow::ensure!(answer.status == 200, "{action} was refused with {}: {}", answer.status, answer.body);
        let root = answer.xml()?;
        Ok(root.child(&format!("{action}Result")).map_or(Value::Null, Element::value))
    }

    /// Any request with any body.
    ///
    /// # Errors
    /// Without an answer.
    pub async fn raw(&self, method: Method, path: &str, body: &str) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8")
            .header("authorization", &self.authorization);
        if let Some(account) = &self.account {
            request = request.header("x-moto-account-id", account);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned())))?;
        // A client lives as long as the runtime of the test that made it, so none is kept.
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let exchange = async {
            let (head, body) = client.request(request).await?.into_parts();
            let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            anyhow::Ok(Answer {
                status: head.status.as_u16(),
                content_type: text("content-type"),
                request_id: text("x-amzn-requestid"),
                body: String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned(),
            })
        };
        tokio::time::timeout(ANSWER_WITHIN, exchange).await.with_context(|| format!("{} did not answer", self.url))?
    }
}

impl Answer {
    /// The body as XML.
    ///
    /// # Errors
    /// When it is none.
    pub fn xml(&self) -> anyhow::Result<Element> {
        parse(&self.body).with_context(|| format!("no XML: {}", self.body))
    }
}

impl Element {
    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// As JSON: a list for `member`s, an object for other elements, else the text. An empty list and an empty text look alike
    /// in XML and are both an empty text here.
    pub fn value(&self) -> Value {
        if self.children.is_empty() {
            return Value::String(self.text.clone());
        }
        if self.children.iter().all(|child| child.name == "member") {
            return Value::Array(self.children.iter().map(Element::value).collect());
        }
        let fields = self.children.iter().map(|child| (child.name.clone(), child.value()));
        Value::Object(fields.collect::<Map<_, _>>())
    }
}

/// Percent-encoding of a form.
pub fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            // Writing into a String does not fail.
            other => _ = write!(encoded, "%{other:02X}"),
        }
    }
    encoded
}

fn parse(text: &str) -> anyhow::Result<Element> {
    let mut reader = Reader::from_str(text);
    let mut open = vec![Element::default()];
    loop {
        match reader.read_event()? {
            Event::Start(tag) => open.push(element(&tag)?),
            Event::Empty(tag) => {
                let empty = element(&tag)?;
                open.last_mut().context("no parent")?.children.push(empty);
            }
            Event::End(_) => {
                let done = open.pop().context("an end without a start")?;
                open.last_mut().context("an end without a start")?.children.push(done);
            }
            Event::Text(text) => open.last_mut().context("no parent")?.text.push_str(&text.decode()?),
            Event::GeneralRef(entity) => open.last_mut().context("no parent")?.text.push(character(&entity)?),
            Event::Eof => break,
            _ => {}
        }
    }
    let mut all = open.pop().context("no document")?;
    anyhow::ensure!(open.is_empty() && all.children.len() == 1, "not one closed element");
    Ok(all.children.remove(0))
}

fn element(tag: &quick_xml::events::BytesStart<'_>) -> anyhow::Result<Element> {
    let namespace = tag.try_get_attribute("xmlns")?.map(|found| String::from_utf8_lossy(&found.value).into_owned());
    Ok(Element {
        name: String::from_utf8_lossy(tag.name().as_ref()).into_owned(),
        namespace: namespace.unwrap_or_default(),
        ..Element::default()
    })
}

fn character(entity: &BytesRef<'_>) -> anyhow::Result<char> {
    if let Some(character) = entity.resolve_char_ref()? {
        return Ok(character);
    }
    match &*entity.decode()? {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => anyhow::bail!("&{other}; is not known"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_lists_and_entities_are_characters() {
        let xml = "<?xml version='1.0'?>\n<A xmlns=\"n\"><L><member><X>1</X></member><member/></L><T>a &amp;&#38; b</T><E/></A>";
        let root = parse(xml).unwrap();
        assert_eq!((root.name.as_str(), root.namespace.as_str()), ("A", "n"));
        assert_eq!(root.value(), json!({"L": [{"X": "1"}, ""], "T": "a && b", "E": ""}));
    }

    #[test]
    fn what_is_no_xml_is_an_error() {
        for bad in ["", "text", "<a>", "<a></b>", "<!doctype html><html><p>x</html>"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
