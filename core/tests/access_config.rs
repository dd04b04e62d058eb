//! The access file: what it gives to whom, and every fault named.

use std::collections::BTreeSet;

use switchyard_core::access::{
    AccessConfig, Identity, RawAccess, Role, Touch,
    config::{Keys, RawJwks},
};

const FILE: &str = "
issuers:
- name: corp
  issuer: https://login.example.com/
  audiences: [switchyard]
  usernameClaim: email
- name: github
  issuer: https://token.actions.githubusercontent.com
  audiences: [switchyard]
  jwks: {url: https://token.actions.githubusercontent.com/.well-known/jwks}
  requiredClaims: {repository_owner: example}
agents:
- cluster: blue
  issuer: https://oidc.eks.eu-central-1.amazonaws.com/id/AB12
  serviceAccount: switchyard-system/switchyard-agent
bindings:
- role: admin
  namespaces: ['*']
  clusters: ['*']
  overrides: true
  subjects: [{issuer: corp, group: sre}]
- role: operator
  namespaces: [shop]
  clusters: [blue, green]
  subjects:
  - {issuer: github, user: 'repo:example/shop:*'}
  - {certificate: {commonName: deploy}}
  - {certificate: {uri: 'spiffe://example.com/ci'}}
- role: viewer
  namespaces: ['*']
  clusters: ['*']
  subjects: [{issuer: corp, user: ann@example.com}]
- role: operator
  namespaces: [shop]
  clusters: ['*']
  overrides: true
  subjects: [{cluster: blue}]
";

fn read(text: &str) -> Result<AccessConfig, Vec<String>> {
    let raw: RawAccess = serde_norway::from_str(text).map_err(|error| vec![error.to_string()])?;
    let sentence =
        |v: switchyard_core::policy::Violation| format!("{} {:?} {}; {}", v.field, v.value, v.problem, v.remedy);
    AccessConfig::check(&raw).map_err(|violations| violations.into_iter().map(sentence).collect())
}

fn jwt(issuer: &str, user: &str, groups: &[&str]) -> Identity {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Identity::Jwt { issuer: issuer.into(), user: user.into(), groups }
}

#[test]
fn callers_get_what_the_bindings_say_and_nothing_else() {
    let config = read(FILE).unwrap();
    let shop = "shop".parse().unwrap();
    let (blue, red) = ("blue".parse().unwrap(), BTreeSet::from(["red".parse().unwrap()]));
    let sre = config.grants_of(&jwt("corp", "bob@example.com", &["dev", "sre"]));
    assert!(sre.check_overrides(Role::Admin, &Touch::Hub).is_ok());
    let ann = config.grants_of(&jwt("corp", "ann@example.com", &[]));
    assert!(ann.check(Role::Viewer, &Touch::Hub).is_ok() && ann.check(Role::Operator, &Touch::Policy(&shop)).is_err());
    let deploy = config.grants_of(&jwt("github", "repo:example/shop:ref:refs/heads/main", &["sre"]));
    assert!(deploy.check(Role::Operator, &Touch::Policy(&shop)).is_ok());
    assert!(deploy.check_overrides(Role::Operator, &Touch::Policy(&shop)).is_err());
    assert!(deploy.check(Role::Operator, &Touch::Weights(&shop, &red)).is_err());
    assert!(deploy.check(Role::Operator, &Touch::Cluster(&blue)).is_err());
    for nobody in [
        jwt("github", "repo:example/shopping:ref:refs/heads/main", &[]),
        jwt("corp", "repo:example/shop:x", &["SRE"]),
        jwt("github", "ann@example.com", &["sre"]),
        Identity::Anonymous,
        Identity::ServiceToken { name: "sre".into() },
        Identity::Agent { cluster: blue.clone(), serial: "1".into() },
        Identity::Certificate { fingerprint: "sha256:00".into(), common_name: Some("Deploy".into()), uris: vec![] },
    ] {
        assert!(config.grants_of(&nobody).is_empty(), "{nobody}");
    }
    let by = |common_name: Option<&str>, uris: &[&str]| Identity::Certificate {
        fingerprint: "sha256:00".into(),
        common_name: common_name.map(str::to_owned),
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
    };
    assert_eq!(config.grants_of(&by(Some("deploy"), &[])).0.len(), 1);
    assert_eq!(config.grants_of(&by(None, &["spiffe://example.com/ci"])).0.len(), 1);
}

#[test]
fn resources_of_a_cluster_may_what_its_own_rbac_lets_through_but_cross_no_rule_unless_bound() {
    let config = read(FILE).unwrap();
    let (shop, pay) = ("shop".parse().unwrap(), "pay".parse().unwrap());
    let blue = config.grants_of(&Identity::Cluster("blue".parse().unwrap()));
    assert!(blue.check(Role::Admin, &Touch::Hub).is_ok());
    assert!(blue.check_overrides(Role::Operator, &Touch::Policy(&shop)).is_ok());
    assert!(blue.check_overrides(Role::Operator, &Touch::Policy(&pay)).is_err());
    let green = config.grants_of(&Identity::Cluster("green".parse().unwrap()));
    assert!(green.check_overrides(Role::Operator, &Touch::Policy(&shop)).is_err());
}

#[test]
fn an_empty_file_gives_nobody_anything_but_development_everything() {
    let config = read("{}").unwrap();
    assert!(config.grants_of(&jwt("corp", "ann", &["sre"])).is_empty());
    assert!(config.grants_of(&Identity::Development).check_overrides(Role::Admin, &Touch::Hub).is_ok());
}

#[test]
fn what_was_left_out_has_its_default() {
    let config = read(FILE).unwrap();
    let [corp, github] = config.issuers() else { panic!("two issuers") };
    assert_eq!((corp.username_claim.as_str(), corp.groups_claim.as_str()), ("email", "groups"));
    assert_eq!(corp.keys, Keys::Discovery { ca_file: None });
    assert_eq!(github.username_claim, "sub");
    let [blue] = config.agents() else { panic!("one agent") };
    assert_eq!(blue.subject, "system:serviceaccount:switchyard-system:switchyard-agent");
    assert_eq!(blue.audiences, BTreeSet::from(["switchyard".to_owned()]));
}

/// One line of the good file replaced, and the start of the fault's sentence.
const FAULTS: &[(&str, &str, &str)] = &[
    (
        "- name: corp\n  issuer: https://login",
        "- name: Corp\n  issuer: https://login",
        "issuers[0].name \"Corp\" holds the character 'C'",
    ),
    ("name: corp", "name: token", "issuers[0].name \"token\" is a word of the hub's own identities"),
    ("name: github", "name: corp", "issuers[1].name \"corp\" stands there twice"),
    (
        "https://login.example.com/",
        "http://login.example.com/",
        "issuers[0].issuer \"http://login.example.com/\" is no https:// URL",
    ),
    (
        "https://login.example.com/",
        "http://localhost.example.com/",
        "issuers[0].issuer \"http://localhost.example.com/\" is no https:// URL",
    ),
    (
        "https://login.example.com/",
        "https://u:p@login.example.com/",
        "issuers[0].issuer \"https://u:p@login.example.com/\" is not a URL that can be asked",
    ),
    (
        "audiences: [switchyard]\n  usernameClaim",
        "audiences: []\n  usernameClaim",
        "issuers[0].audiences \"\" is missing",
    ),
    ("cluster: blue\n  issuer", "cluster: Blue\n  issuer", "agents[0].cluster \"Blue\" holds the character 'B'"),
    (
        "switchyard-system/switchyard-agent",
        "switchyard-agent",
        "agents[0].serviceAccount \"switchyard-agent\" is no ServiceAccount",
    ),
    ("switchyard-system/switchyard-agent", "a/b:c", "agents[0].serviceAccount \"a/b:c\" is no ServiceAccount"),
    ("role: admin", "role: root", "bindings[0].role \"root\" is no role"),
    (
        "namespaces: [shop]\n  clusters: [blue, green]",
        "clusters: [blue, green]",
        "bindings[1].namespaces \"\" is missing",
    ),
    ("clusters: [blue, green]", "clusters: [blue, '*']", "bindings[1].clusters \"*\" stands beside names"),
    ("clusters: [blue, green]", "clusters: [blue, gre*]", "bindings[1].clusters[1] \"gre*\" holds the character '*'"),
    (
        "{issuer: corp, group: sre}",
        "{issuer: crop, group: sre}",
        "bindings[0].subjects[0].issuer \"crop\" is no issuer of this file",
    ),
    ("{issuer: corp, group: sre}", "{group: sre}", "bindings[0].subjects[0].issuer \"\" is no issuer of this file"),
    ("{issuer: corp, group: sre}", "{issuer: corp}", "bindings[0].subjects[0] \"\" has not exactly one of user, group"),
    (
        "{issuer: corp, group: sre}",
        "{issuer: corp, group: sre, user: a}",
        "bindings[0].subjects[0] \"\" has not exactly one of user, group",
    ),
    ("repo:example/shop:*", "*", "bindings[1].subjects[0].user \"*\" holds a * where none may be"),
    (
        "repo:example/shop:*",
        "repo:*/shop:*",
        "bindings[1].subjects[0].user \"repo:*/shop:*\" holds a * where none may be",
    ),
    (
        "{commonName: deploy}",
        "{fingerprint: 'sha256:AB'}",
        "bindings[1].subjects[1].certificate.fingerprint \"sha256:AB\" is no fingerprint",
    ),
    ("{commonName: deploy}", "{}", "bindings[1].subjects[1].certificate \"\" has not exactly one of fingerprint"),
    (
        "{cluster: blue}]",
        "{cluster: blue, issuer: corp}]",
        "bindings[3].subjects[0].issuer \"corp\" goes with user and group only",
    ),
    ("subjects: [{cluster: blue}]", "subjects: []", "bindings[3].subjects \"\" is missing"),
    (
        "overrides: true\n  subjects: [{issuer",
        "override: true\n  subjects: [{issuer",
        "bindings[0]: unknown field `override`",
    ),
];

#[test]
fn every_fault_is_named_and_the_file_refused_whole() {
    for (good, bad, expected) in FAULTS {
        let text = FILE.replacen(good, bad, 1);
        assert_ne!(text, FILE, "{good}");
        let faults = read(&text).unwrap_err();
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{expected}: {faults:?}");
    }
}

#[test]
fn faults_are_found_all_at_once() {
    let text = FILE.replace("role: admin", "role: root").replace("name: corp", "name: Corp");
    assert!(read(&text).unwrap_err().len() >= 2);
}

#[test]
fn one_service_account_stands_for_one_cluster() {
    let agent = "- cluster: green\n  issuer: https://oidc.eks.eu-central-1.amazonaws.com/id/AB12\n  serviceAccount: switchyard-system/switchyard-agent\nbindings:";
    let faults = read(&FILE.replace("bindings:", agent)).unwrap_err();
    assert!(faults[0].contains("is the ServiceAccount of another cluster, too"), "{faults:?}");
}

#[test]
fn a_file_with_too_many_entries_is_refused_before_they_are_read() {
    let mut raw: RawAccess = serde_norway::from_str(FILE).unwrap();
    raw.bindings = vec![raw.bindings[0].clone(); 1001];
    let faults = AccessConfig::check(&raw).unwrap_err();
    assert_eq!((faults.len(), faults[0].field.as_str()), (1, "bindings"));
    let mut raw: RawAccess = serde_norway::from_str(FILE).unwrap();
    raw.issuers[0].jwks = Some(RawJwks { url: "https://a".into(), file: "b".into(), ca_file: String::new() });
    assert_eq!(AccessConfig::check(&raw).unwrap_err()[0].field, "issuers[0].jwks.file");
}

#[test]
fn the_example_is_a_file_that_is_taken() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/access/access.yaml");
    let config = read(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!((config.issuers().len(), config.agents().len()), (2, 1));
    let team = config.grants_of(&jwt("corp", "ann@example.com", &["staff", "shop-team"]));
    let (shop, pay) = ("shop".parse().unwrap(), "pay".parse().unwrap());
    assert!(team.check(Role::Operator, &Touch::Policy(&shop)).is_ok());
    assert!(team.check(Role::Viewer, &Touch::Policy(&pay)).is_ok());
    assert!(team.check(Role::Operator, &Touch::Policy(&pay)).is_err());
}

#[test]
fn the_page_names_every_field_of_the_file() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/access.md")).unwrap();
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/access/config/raw.rs")).unwrap();
    let fields: Vec<String> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "))
        .map(|(name, _)| {
            let mut words = name.split('_');
            let first = words.next().unwrap().to_owned();
            words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
        })
        .collect();
    assert!(fields.len() > 20, "{fields:?}");
    for field in fields {
        assert!(page.contains(&field), "docs/access.md does not name {field}");
    }
}
