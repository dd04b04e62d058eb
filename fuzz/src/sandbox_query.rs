//! What the sandbox reads in the place of AWS: the query protocol of ELBv2 with its actions and conditions, and CloudWatch's CBOR. The
//! sandbox decides what the tests believe of AWS, so it may not be the part that falls over.

use switchyard_sandbox::fuzz::{Limits, Params, Xml, actions, cbor, conditions};

/// Bytes of a refusal: a name or value of 16 KiB may stand in it, written out.
const MOST_MESSAGE: usize = 64 * 1024;

/// Tries the bytes as either; they are taken when they are CBOR, or a rule.
pub fn run(data: &[u8]) -> bool {
    let read = cbor(data);
    if let Ok(value) = &read {
        assert!(value.to_string().len() <= 64 * data.len() + 64, "{} bytes became {value}", data.len());
    }
    query(data) || read.is_ok()
}

fn query(data: &[u8]) -> bool {
    let params = match Params::parse(data) {
        Ok(params) => params,
        Err(error) => {
            assert!(error.message.len() <= MOST_MESSAGE && error.status == 400, "{error}");
            return false;
        }
    };
    let root = params.root();
    let limits = Limits::default();
    let mut xml = Xml::new();
    let (conditions, actions) =
        (conditions(&root.members("Conditions"), &limits), actions(&root.members("Actions"), &limits));
    match &conditions {
        Ok(conditions) => conditions.iter().for_each(|condition| condition.write(&mut xml)),
        Err(error) => assert!(error.message.len() <= MOST_MESSAGE, "{} bytes", error.message.len()),
    }
    match &actions {
        Ok(actions) => actions.iter().for_each(|action| action.write(&mut xml)),
        Err(error) => assert!(error.message.len() <= MOST_MESSAGE, "{} bytes", error.message.len()),
    }
    for target in root.members("Targets") {
        let _ = (target.required("Id"), target.number("Port", 1..=65_535));
    }
    let _ = (root.list("Names"), root.boolean("Enabled"), root.structure("Matcher"));
    // What a name is read as, it is written as: the call log shows no other call than the one that was made.
    let written: Vec<String> = params
        .clone()
        .into_logged()
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .collect();
    let again = Params::parse(written.join("&").as_bytes()).expect("what was read can be read again");
    assert_eq!(again.into_logged(), params.into_logged());
    conditions.is_ok() && actions.is_ok()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
