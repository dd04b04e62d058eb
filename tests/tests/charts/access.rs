//! The access file that the hub's chart renders is one that the hub takes, and gives what the values say.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use switchyard_core::access::{AccessConfig, Identity, RawAccess, Role, Touch};

use super::{names, path, read};

/// The file in the ConfigMap of a rendered chart.
fn rendered(name: &str) -> AccessConfig {
    let text = read(&format!("charts/switchyard-hub/rendered/{name}"));
    let documents = serde_norway::Deserializer::from_str(&text);
    let objects = documents.map(|one| Value::deserialize(one).expect("a document"));
    let maps: Vec<Value> = objects.filter(|object| object["kind"] == "ConfigMap").collect();
    let [map] = maps.as_slice() else { panic!("{name}: {} ConfigMaps", maps.len()) };
    let file = map["data"]["access.yaml"].as_str().expect("a file");
    let raw: RawAccess = serde_norway::from_str(file).unwrap_or_else(|error| panic!("{name}: {error}"));
    AccessConfig::check(&raw).unwrap_or_else(|violations| panic!("{name}: {violations:?}"))
}

fn user(issuer: &str, user: &str, group: &str) -> Identity {
    Identity::Jwt { issuer: issuer.to_owned(), user: user.to_owned(), groups: BTreeSet::from([group.to_owned()]) }
}

#[test]
fn every_access_file_that_the_chart_renders_is_taken() {
    for name in names(&path("charts/switchyard-hub/rendered")) {
        rendered(&name);
    }
}

#[test]
fn the_values_give_what_they_say_and_nothing_else() {
    let config = rendered("everything.yaml");
    let shop = "shop".parse().expect("a label");
    let admin = config.grants_of(&user("corp", "ann", "platform"));
    assert!(admin.check_overrides(Role::Admin, &Touch::Hub).is_ok(), "{admin:?}");
    let ci = config.grants_of(&user("github", "repo:example/shop:ref:refs/heads/main", ""));
    assert!(ci.check(Role::Operator, &Touch::Policy(&shop)).is_ok(), "{ci:?}");
    assert!(ci.check(Role::Admin, &Touch::Policy(&shop)).is_err() && ci.check(Role::Viewer, &Touch::Hub).is_err());
    for nobody in [user("github", "repo:other/shop:x", "platform"), user("corp", "ann", "sales"), Identity::Anonymous] {
        assert!(config.grants_of(&nobody).is_empty(), "{nobody}");
    }
    assert!(rendered("trial.yaml").grants_of(&user("corp", "ann", "platform")).is_empty(), "nothing was said");
}
