//! Requests and answers through the mapping, against the generated types.

use serde_json::{Value as Json, json};
use switchyard_core::policy::Violation;
use switchyard_proto::api::v1 as proto;

use super::*;
use crate::gateway::routes::{Found, Table};

fn sent(http: &str, uri: &str, body: &Json, key: Option<&str>) -> Result<Bytes, Refusal> {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    raw(http, uri, text.as_bytes(), key)
}

fn raw(http: &str, uri: &str, body: &[u8], idempotency_key: Option<&str>) -> Result<Bytes, Refusal> {
    let table = Table::new().unwrap();
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    match table.find(http, path) {
        Found::Route(route, path) => request(route, Sent { path: &path, query, body, idempotency_key }),
        other => panic!("{http} {uri}: {other:?}"),
    }
}

fn decoded<M: Message + Default>(bytes: Result<Bytes, Refusal>) -> M {
    M::decode(bytes.unwrap()).unwrap()
}

fn violation(result: Result<Bytes, Refusal>) -> Violation {
    match result {
        Err(Refusal::Invalid(mut violations)) => violations.remove(0),
        other => panic!("{other:?}"),
    }
}

const WEIGHTS: &str = "/v1/namespaces/shop/policies/web:setWeights";

#[test]
fn path_body_and_key_make_one_request() {
    let body = json!({"weights": {"blue": 10, "green": 90}, "expectedVersion": "7", "dry_run": true, "reason": "r"});
    let request: proto::SetWeightsRequest = decoded(sent("POST", WEIGHTS, &body, Some("key-1")));
    let policy = proto::PolicyRef { namespace: "shop".to_owned(), name: "web".to_owned() };
    assert_eq!(request.policy, Some(policy));
    assert_eq!(request.weights, [("blue".to_owned(), 10), ("green".to_owned(), 90)].into());
    assert_eq!((request.expected_version, request.dry_run, request.request_id.as_str()), (7, true, "key-1"));
    let nothing: proto::SetWeightsRequest = decoded(sent("POST", WEIGHTS, &Json::Null, None));
    assert_eq!(nothing.policy.unwrap().name, "web");
}

#[test]
fn the_body_may_repeat_the_path_and_the_key_but_not_contradict_them() {
    let same = json!({"policy": {"name": "web"}, "requestId": "k"});
    let request: proto::SetWeightsRequest = decoded(sent("POST", WEIGHTS, &same, Some("k")));
    assert_eq!(request.policy.unwrap().namespace, "shop");
    let other = violation(sent("POST", WEIGHTS, &json!({"policy": {"name": "other"}}), None));
    assert_eq!((other.field.as_str(), other.value.as_str()), ("policy.name", "web"));
    assert!(other.problem.contains("the path says"), "{other}");
    let other = violation(sent("POST", WEIGHTS, &json!({"requestId": "a"}), Some("b")));
    assert_eq!(other.field, "requestId");
}

#[test]
fn faults_of_a_body_name_the_field() {
    let cases = [
        (json!({"wieghts": {}}), "body", "wieghts"),
        (json!({"weights": {"blue": -1}}), "weights.blue", "out of range"),
        (json!({"weights": {"blue": 4_294_967_296_u64}}), "weights.blue", "out of range"),
        (json!({"dryRun": "yes"}), "dryRun", "bool"),
        (json!({"weights": {"blue": null}}), "weights.blue", "null"),
        (json!({"weights": []}), "weights", "a map"),
        (json!([]), "body", "is not an object"),
    ];
    for (body, field, words) in cases {
        let found = violation(sent("POST", WEIGHTS, &body, None));
        assert_eq!(found.field, field, "{found}");
        assert!(found.problem.contains(words), "{words}: {found}");
        assert!(!found.remedy.is_empty());
    }
    let found = violation(raw("POST", WEIGHTS, b"{\"dryRun\": true, \"dry_run\": false}", None));
    assert!(found.problem.contains("twice"), "two names of one field: {found}");
}

#[test]
fn a_query_gives_texts_numbers_booleans_and_times() {
    let uri = "/v1/audit?policy.namespace=shop&policy.name=a%2Fb&since=2026-11-21T15:04:05%2B01:00&oldestFirst=true&page_size=7&actor=a+b&namespace=";
    let request: proto::ListAuditEntriesRequest = decoded(sent("GET", uri, &Json::Null, None));
    let policy = proto::PolicyRef { namespace: "shop".to_owned(), name: "a/b".to_owned() };
    assert_eq!((request.policy, request.oldest_first, request.page_size), (Some(policy), true, 7));
    assert_eq!((request.actor.as_str(), request.namespace.as_str()), ("a b", ""));
    assert_eq!(request.since.unwrap().seconds, 1_795_269_845);
    let uri = "/v1/namespaces/shop/policies/web?expectedVersion=18446744073709551615&requestId=r&dryRun=false";
    let request: proto::DeletePolicyRequest = decoded(sent("DELETE", uri, &Json::Null, None));
    assert_eq!((request.expected_version, request.request_id.as_str(), request.dry_run), (u64::MAX, "r", false));
}

#[test]
fn faults_of_a_query_name_the_parameter() {
    let cases = [
        ("/v1/shifts?pageSize=-1", "pageSize", "4294967295"),
        ("/v1/shifts?pageSize=", "pageSize", "4294967295"),
        ("/v1/shifts?active", "active", "boolean"),
        ("/v1/shifts?pageSize=%2B1", "pageSize", "4294967295"),
        ("/v1/shifts?active=yes", "active", "boolean"),
        ("/v1/shifts?active=true&active=true", "active", "twice"),
        ("/v1/shifts?page=1", "page", "not a parameter"),
        ("/v1/shifts?namespace=%zz", "query", "percent"),
        ("/v1/audit?since=yesterday", "since", "not a time"),
        ("/v1/shifts/%ff", "id", "UTF-8"),
    ];
    for (uri, field, words) in cases {
        let found = violation(sent("GET", uri, &Json::Null, None));
        assert_eq!(found.field, field, "{uri}: {found}");
        assert!(found.problem.contains(words), "{uri}: {found}");
    }
    let found = violation(sent("GET", "/v1/clusters?x=1", &Json::Null, None));
    assert_eq!(found.remedy, "this call has none");
    let found = violation(sent("POST", &format!("{WEIGHTS}?dryRun=true"), &Json::Null, None));
    assert!(found.remedy.contains("JSON body"), "{found}");
}

#[test]
fn an_encoded_colon_is_a_part_of_a_value_and_what_could_be_another_path_is_none() {
    let request: proto::GetShiftRequest = decoded(sent("GET", "/v1/shifts/a..%3Aabort", &Json::Null, None));
    assert_eq!(request.id, "a..:abort");
    for value in ["..", ".", "%2e%2e", "%2E", "a%2Fb", "a%2f..", "a%5Cb", "a%00", "a%0a", "%c2%85"] {
        let found = violation(sent("GET", &format!("/v1/shifts/{value}"), &Json::Null, None));
        assert_eq!((found.field.as_str(), found.problem.as_str()), ("id", "is no name"), "{value}");
    }
}

#[test]
fn answers_are_sorted_camel_case_with_long_numbers_as_texts_and_without_defaults() {
    let policy = proto::Policy {
        r#ref: Some(proto::PolicyRef { namespace: "shop".to_owned(), name: "web".to_owned() }),
        version: 5,
        created_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
        status: Some(proto::PolicyStatus {
            clusters: vec![proto::ClusterStatus {
                cluster: "blue".to_owned(),
                requested_weight: 3,
                programmed_weight: Some(0),
                link: proto::ClusterLink::Connected.into(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let bytes = proto::GetPolicyResponse { policy: Some(policy) }.encode_to_vec();
    let output = Table::new().unwrap().pool.get_message_by_name("switchyard.api.v1.GetPolicyResponse").unwrap();
    let text = String::from_utf8(answer(output.clone(), bytes.into()).unwrap()).unwrap();
    let expected = r#"{"policy":{"createdAt":"1970-01-01T00:00:00Z","ref":{"name":"web","namespace":"shop"},"status":{"clusters":[{"cluster":"blue","link":"CLUSTER_LINK_CONNECTED","programmedWeight":0,"requestedWeight":3}]},"version":"5"}}"#;
    assert_eq!(text, expected);
    assert!(answer(output, vec![0xff].into()).is_err());
}
