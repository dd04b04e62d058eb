//! The access file: YAML, then core's `check`. It is written by people and decides everything, so the property is what it gives to
//! whom: nobody has anything whom it does not name, and no binding gives what it does not say.

use std::collections::BTreeSet;

use switchyard_core::access::{AccessConfig, Grants, Identity, RawAccess, Role, Touch};

use crate::text::is_one_sound_line;

/// Tries one file.
pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(raw) = serde_norway::from_str::<RawAccess>(text) else { return false };
    let config = match AccessConfig::check(&raw) {
        Ok(config) => config,
        Err(violations) => {
            assert!(!violations.is_empty(), "refused without a reason");
            violations.iter().for_each(|one| is_one_sound_line("the access file is not valid", &one.to_string()));
            return false;
        }
    };
    assert_eq!(AccessConfig::check(&raw).as_ref(), Ok(&config), "not the same twice");
    let none = [
        Identity::Anonymous,
        Identity::ServiceToken { name: "ci".to_owned() },
        Identity::Agent { cluster: "blue".parse().expect("a label"), serial: "1f".to_owned() },
        // The name of no issuer: the file cannot have one of it.
        Identity::Jwt { issuer: "system".to_owned(), user: "ann".to_owned(), groups: BTreeSet::new() },
        Identity::Certificate { fingerprint: String::new(), common_name: None, uris: Vec::new() },
    ];
    for identity in none {
        assert!(config.grants_of(&identity).is_empty(), "{identity} has something");
    }
    for issuer in config.issuers() {
        // A user who is named nowhere has only what is given to a prefix of his name, and with no name nothing.
        let nobody = Identity::Jwt { issuer: issuer.name.to_string(), user: String::new(), groups: BTreeSet::new() };
        assert!(config.grants_of(&nobody).is_empty(), "a user without a name has something");
    }
    for (i, binding) in raw.bindings.iter().enumerate() {
        for subject in &binding.subjects {
            if let Some(identity) = identity(subject) {
                gives_what_it_says(i, &raw, &config.grants_of(&identity));
            }
        }
    }
    true
}

/// Somebody whom the subject means.
fn identity(subject: &switchyard_core::access::config::RawSubject) -> Option<Identity> {
    if !subject.cluster.is_empty() {
        return None;
    }
    if let Some(certificate) = &subject.certificate {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        return Some(Identity::Certificate {
            fingerprint: certificate.fingerprint.clone(),
            common_name: some(&certificate.common_name),
            uris: some(&certificate.uri).into_iter().collect(),
        });
    }
    let groups = Some(subject.group.clone()).filter(|group| !group.is_empty()).into_iter().collect();
    let user = subject.user.trim_end_matches('*').to_owned();
    Some(Identity::Jwt { issuer: subject.issuer.clone(), user, groups })
}

/// The binding gives its role, and all bindings together give no more than the highest role and the right to cross safety rules
/// where one of them does.
fn gives_what_it_says(i: usize, raw: &RawAccess, grants: &Grants) {
    let role = Role::of_word(&raw.bindings[i].role).expect("it was checked");
    assert!(grants.has_role_somewhere(role), "binding {i} gives no {role}: {grants:?}");
    let most = raw.bindings.iter().filter_map(|binding| Role::of_word(&binding.role)).max();
    let too_much = |role: Role| most < Some(role) && grants.has_role_somewhere(role);
    assert!(
        ![Role::Viewer, Role::Operator, Role::Admin].into_iter().any(too_much),
        "more than any binding: {grants:?}"
    );
    if raw.bindings.iter().all(|binding| !binding.overrides) {
        assert!(grants.check_overrides(Role::Viewer, &Touch::Hub).is_err(), "overrides from nowhere: {grants:?}");
    }
    let everything = |list: &[String]| list.iter().any(|name| name == "*");
    if !raw.bindings.iter().any(|binding| everything(&binding.namespaces) && everything(&binding.clusters)) {
        assert!(!grants.sees_all(), "everything from nowhere: {grants:?}");
    }
    assert!(Grants::everything().covers(grants) && grants.covers(grants));
}
