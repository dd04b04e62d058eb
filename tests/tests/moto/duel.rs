//! The same calls sent to moto and to the sandbox, and their answers compared.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use serde_json::{Value, json};
use switchyard_core::budget::{Rate, Rates};
use switchyard_hub::{
    elb::{Elb, ElbConfig},
    metrics::Metrics,
};
use switchyard_tests::{
    moto::{
        Moto,
        account::Account,
        query::{Answer, Api},
    },
    sandbox::{Sandbox, Settings},
    world,
};
use tempfile::TempDir;

use crate::{
    compare::{Difference, Names, differences},
    known::{KNOWN, Known},
};

/// The sandbox's region, and one in which nothing else happens in moto.
const REGION: &str = "eu-central-1";
/// The account that moto gives to its open key.
const ACCOUNT: &str = "123456789012";

/// One of the two.
pub struct Side {
    /// The query protocol by hand.
    pub api: Api,
    /// The hub's own client.
    pub elb: Elb,
    names: Names,
    kept: BTreeMap<String, String>,
    last: Value,
}

/// Both, and what came of it so far.
pub struct Duel {
    sides: [Side; 2],
    found: Vec<(Step, Difference)>,
    steps: Vec<Step>,
    _sandbox: Sandbox,
    _folder: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    name: &'static str,
    operation: &'static str,
}

impl Side {
    /// Something that an earlier answer brought, or was there from the start.
    pub fn kept(&self, label: &str) -> String {
        self.kept.get(label).cloned().unwrap_or_else(|| panic!("nothing is kept as {label:?}"))
    }

    /// Replaces every `{label}`.
    fn filled(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (label, value) in &self.kept {
            text = text.replace(&format!("{{{label}}}"), value);
        }
        text
    }

    fn keep(&mut self, label: &str, pointer: &str) {
        let found = self.last.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        // A call that one side refuses brings nothing; a call that is made with it then fails there, visibly.
        self.kept.insert(label.to_owned(), found.unwrap_or_else(|| "nothing".to_owned()));
    }
}

async fn client(url: &str) -> Elb {
    let open = Rate::new(1000.0, 10_000).expect("a rate");
    let config = ElbConfig {
        region: REGION.to_owned(),
        endpoint_url: Some(url.to_owned()),
        call_timeout: Duration::from_secs(30),
        rates: Rates { describe: open, modify: open, register: open },
        metrics: Metrics::new(),
    };
    Elb::connect(config).await.expect("the hub's client takes the endpoint")
}

async fn side(url: &str, constants: Vec<(String, &'static str)>, kept: &[(&str, &str)]) -> Side {
    Side {
        api: Api::elb(url, REGION),
        elb: client(url).await,
        names: Names::new(constants),
        kept: kept.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect(),
        last: Value::Null,
    }
}

impl Duel {
    /// Both with an empty account.
    pub async fn start() -> Self {
        let moto = Moto::shared().await;
        let account = Account::new(moto, ACCOUNT, REGION);
        let (vpc, subnets) = account.subnets().await.expect("moto has a VPC");
        let instance = account.instance().await.expect("moto starts an instance");
        let common = |account: &str, vpc: &str, net: &str| {
            let named = [(account, "ACCOUNT"), (vpc, "VPC"), (&instance, "INSTANCE")];
            let mut constants: Vec<_> = named.map(|(from, to)| (from.to_owned(), to)).into();
            constants.push((format!("{net}."), "NET."));
            constants
        };
        // The first half of an address in the VPC.
        let net = "172.31";
        let constants = common(ACCOUNT, &vpc, net);
        let kept = [
            ("vpc", vpc.as_str()),
            ("net", net),
            ("instance", &instance),
            ("subnet 1", &subnets[0]),
            ("subnet 2", &subnets[1]),
        ];
        let left = side(moto.url(), constants, &kept).await;

        let folder = world::folder().expect("a folder");
        let settings =
            Settings { clusters: vec!["unused".to_owned()], time_scale: 10.0, propagation: Duration::ZERO, seed: 1 };
        let sandbox = Sandbox::start(folder.path(), &settings).await.expect("the sandbox starts");
        let endless = json!({"rate": 10_000.0, "burst": 10_000.0});
        let rates = json!({"rates": {"describe": endless, "mutate": endless, "register": endless}});
        sandbox.elb().limit(rates).await.expect("the sandbox takes the rates");
        let info = sandbox.info();
        let net: Vec<&str> = info.vpc_cidr.split('.').take(2).collect();
        let net = net.join(".");
        let constants = common(&info.account_id, &info.vpc_id, &net);
        sandbox.elb().add_instance(&instance, &format!("{net}.200.1")).await.expect("the sandbox takes the instance");
        let kept = [
            ("vpc", info.vpc_id.as_str()),
            ("net", &net),
            ("instance", &instance),
            ("subnet 1", "subnet-1"),
            ("subnet 2", "subnet-2"),
        ];
        let right = side(&info.elb_url, constants, &kept).await;
        assert_eq!(info.region, REGION, "the region of the sandbox");
        Self { sides: [left, right], found: Vec::new(), steps: Vec::new(), _sandbox: sandbox, _folder: folder }
    }

    fn compare(&mut self, name: &'static str, operation: &'static str, answers: [Value; 2]) -> &mut Self {
        let step = Step { name, operation };
        assert!(!self.steps.contains(&step), "two steps are called {name:?}");
        self.steps.push(step);
        let [moto, sandbox] = &answers;
        let moto = self.sides[0].names.normal(moto);
        let sandbox = self.sides[1].names.normal(sandbox);
        let outcome = |answer: &Value| answer["outcome"].clone();
        // Where one refuses what the other carries out, the rest cannot be alike and says nothing more.
        let different = if outcome(&moto) == outcome(&sandbox) {
            differences(&moto, &sandbox)
        } else {
            differences(&json!({"outcome": outcome(&moto)}), &json!({"outcome": outcome(&sandbox)}))
        };
        self.found.extend(different.into_iter().map(|difference| (step, difference)));
        self
    }

    /// One call by hand. In the values `{label}` stands for what was kept.
    pub async fn raw(&mut self, name: &'static str, operation: &'static str, parameters: &[(&str, &str)]) -> &mut Self {
        let mut answers = Vec::new();
        for side in &mut self.sides {
            let filled: Vec<(String, String)> =
                parameters.iter().map(|(name, value)| ((*name).to_owned(), side.filled(value))).collect();
            let answer = side.api.send(operation, &filled).await.expect("an answer");
            answers.push(described(&answer, operation));
            side.last = answers.last().map(|answer| answer["result"].clone()).unwrap_or_default();
        }
        self.compare(name, operation, answers.try_into().expect("two sides"))
    }

    /// As [`Duel::raw`] with a call that should make nothing: what one side makes nevertheless is deleted there again, so that
    /// it is in no later answer. `undo` is the operation, its parameter, and where in the answer the ARN is.
    pub async fn refused(
        &mut self,
        name: &'static str,
        operation: &'static str,
        parameters: &[(&str, &str)],
        undo: [&str; 3],
    ) {
        self.raw(name, operation, parameters).await;
        let [delete, parameter, pointer] = undo;
        for side in &self.sides {
            if let Some(made) = side.last.pointer(pointer).and_then(Value::as_str) {
                side.api.call(delete, &[(parameter, made)]).await.expect("what was made goes again");
            }
        }
    }

    /// One request with any method and body.
    pub async fn http(&mut self, name: &'static str, operation: &'static str, method: Method, body: &str) {
        let mut answers = Vec::new();
        for side in &self.sides {
            let answer = side.api.raw(method.clone(), "/", body).await.expect("an answer");
            answers.push(described(&answer, operation));
        }
        self.compare(name, operation, answers.try_into().expect("two sides"));
    }

    /// One call by the hub's own client.
    pub async fn client(&mut self, name: &'static str, operation: &'static str, call: impl AsyncFn(&Side) -> Value) {
        let mut answers = Vec::new();
        for side in &mut self.sides {
            let answer = call(side).await;
            side.last = answer.clone();
            answers.push(answer);
        }
        self.compare(name, operation, answers.try_into().expect("two sides"));
    }

    /// Keeps something of the last answers, as JSON pointer.
    pub fn keep(&mut self, label: &str, pointer: &str) -> &mut Self {
        for side in &mut self.sides {
            side.keep(label, pointer);
        }
        self
    }

    /// Keeps a field of the element of a list that is at this place when the list is sorted by another field.
    pub fn keep_sorted(&mut self, label: &str, list: &str, by: &str, index: usize, field: &str) {
        for side in &mut self.sides {
            let mut items = side.last.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
            items.sort_by_key(|item| item[by].to_string());
            let found = items.get(index).and_then(|item| item[field].as_str());
            let found = found.unwrap_or_else(|| panic!("no {field} at {index} in {items:?}")).to_owned();
            side.kept.insert(label.to_owned(), found);
        }
    }

    /// Every difference is in the table, and every row of the table is a difference.
    pub fn judge(&self) {
        let mut faults = Vec::new();
        for (step, difference) in &self.found {
            if !KNOWN.iter().any(|row| covers(row, *step, difference)) {
                let Difference { path, moto, sandbox } = difference;
                faults.push(format!(
                    "{} ({}): {path}\n    moto:    {moto}\n    sandbox: {sandbox}",
                    step.operation, step.name
                ));
            }
        }
        for row in KNOWN {
            if !self.found.iter().any(|(step, difference)| covers(row, *step, difference)) {
                let Known { operation, step, path, why, .. } = row;
                faults.push(format!("no difference any more, take the row out: {operation} ({step}): {path}: {why}"));
            }
        }
        assert!(faults.is_empty(), "{} faults in {} calls:\n{}", faults.len(), self.steps.len(), faults.join("\n"));
    }
}

impl Drop for Duel {
    /// A step that cannot go on stands on one that went wrong before.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.found.iter().rev().take(5).map(|found| format!("{found:?}"));
            eprintln!("the last differences, newest first:\n{}", last.collect::<Vec<_>>().join("\n"));
        }
    }
}

fn covers(row: &Known, step: Step, difference: &Difference) -> bool {
    let place = row.operation == step.operation && (row.step.is_empty() || row.step == step.name);
    let path = match row.path.strip_suffix('*') {
        Some(begin) => difference.path.starts_with(begin),
        None => difference.path == row.path,
    };
    place && path && (row.sandbox.is_empty() || row.sandbox == difference.sandbox)
}

/// What of an answer has to be the same: all of it but the message of an error.
fn described(answer: &Answer, operation: &str) -> Value {
    let Ok(root) = answer.xml() else {
        return json!({"outcome": format!("status {} without XML", answer.status)});
    };
    let error = root.child("Error").map(|error| error.value());
    let result = root.child(&format!("{operation}Result")).map(|result| result.value());
    let id =
        root.child("RequestId").or_else(|| root.child("ResponseMetadata").and_then(|data| data.child("RequestId")));
    let id = id.map(|id| id.text.clone()).unwrap_or_default();
    json!({
        "outcome": error.as_ref().map_or("ok", |error| error["Code"].as_str().unwrap_or("an error without a code")),
        "status": answer.status,
        "content type": answer.content_type,
        "root": format!("{} {}", root.namespace, root.name),
        "kind of error": error.as_ref().map(|error| error["Type"].clone()),
        "has a message": error.as_ref().map(|error| error["Message"].as_str().is_some_and(|text| !text.is_empty())),
        "request id in header and body": !id.is_empty() && id == answer.request_id,
        "result": result,
    })
}
