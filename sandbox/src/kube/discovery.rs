//! What a client learns about the API itself: versions, groups and resources, out of the kind table. Pure.

use serde_json::{Value, json};

use super::kinds::{KINDS, Kind};

/// The Kubernetes version the sandbox presents. Behaviour follows this release as far as it goes.
const VERSION: (&str, &str) = ("1", "33");

/// `GET /version`.
pub fn version() -> Value {
    let (major, minor) = VERSION;
    json!({"major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+switchyard-sandbox"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "", "platform": "linux/amd64"})
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = KINDS.iter().map(|k| k.group).filter(|g| !g.is_empty()).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn group(name: &str) -> Option<Value> {
    let version = KINDS.iter().find(|k| k.group == name)?.version;
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    Some(json!({"name": name, "versions": [version], "preferredVersion": version}))
}

/// In the order in which Kubernetes lists them.
fn verbs(row: &Kind) -> Value {
    if row.custom {
        json!(["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"])
    } else {
        json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
    }
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let rows: Vec<&Kind> = KINDS.iter().filter(|k| k.group == group && k.version == version).collect();
    let mut list = Vec::new();
    for row in &rows {
        let mut resource = json!({"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced,
            "kind": row.kind, "verbs": verbs(row)});
        if !row.short_names.is_empty() {
            resource["shortNames"] = json!(row.short_names);
        }
        list.push(resource);
        if row.status {
            list.push(json!({"name": format!("{}/status", row.plural), "singularName": "",
                "namespaced": row.namespaced, "kind": row.kind, "verbs": ["get", "patch", "update"]}));
        }
    }
    let group_version = rows.first()?.api_version();
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// The answer to a discovery path, given as its segments; `None` where nothing is served.
pub fn answer(path: &[&str], server: &str) -> Option<Value> {
    match path {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}]})),
        ["api", version] => resources("", version),
        ["apis"] => {
            let groups: Vec<Value> = groups().into_iter().filter_map(group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] if !name.is_empty() => {
            let mut out = group(name)?;
            out["kind"] = json!("APIGroup");
            out["apiVersion"] = json!("v1");
            Some(out)
        }
        ["apis", group, version] if !group.is_empty() => resources(group, version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_discovery() {
        for row in KINDS {
            let api_version = row.api_version();
            let path: Vec<&str> =
                if row.group.is_empty() { vec!["api", row.version] } else { vec!["apis", row.group, row.version] };
            let found = answer(&path, "").unwrap();
            assert_eq!(found["groupVersion"], api_version);
            let names: Vec<&Value> = found["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
            assert!(names.contains(&&json!(row.plural)));
            assert_eq!(row.status, names.contains(&&json!(format!("{}/status", row.plural))));
        }
        assert!(answer(&["apis", "nothing.dev"], "").is_none());
    }
}
