//! The short texts that open doors, from anybody: tokens of this hub, and the names in an agent's certificate. Each has one spelling.

use switchyard_core::{
    access::{
        identity::{Identity, check_trust_domain, cluster_of_spiffe, spiffe_of_cluster},
        need,
        tokens::Token,
    },
    ids::ClusterName,
};

use crate::text::is_one_sound_line;

/// Characters of an identity in the audit log.
const MOST_IDENTITY: usize = 256;

/// Tries the bytes as each of them; they are taken when they are one.
pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut taken = false;
    if let Some(token) = Token::parse(text) {
        taken = true;
        assert_eq!(token.reveal(), text, "a token with two spellings");
        assert!(!format!("{token:?}").contains(&text[17..]), "a secret is shown");
    }
    // A trust domain, and a name of a certificate that claims to be of it.
    let (domain, uri) = text.split_once('\n').unwrap_or(("switchyard", text));
    if check_trust_domain(domain).is_ok() {
        if let Some(cluster) = cluster_of_spiffe(uri, domain) {
            taken = true;
            assert_eq!(spiffe_of_cluster(&cluster, domain), uri, "a cluster with two names");
        }
        if let Ok(cluster) = ClusterName::new(text) {
            assert_eq!(cluster_of_spiffe(&spiffe_of_cluster(&cluster, domain), domain), Some(cluster));
        }
    }
    if let Some(need) = need(text) {
        taken = true;
        assert_eq!(format!("/{}", need.rpc), text, "a call with two names");
    }
    let claimed = [
        Identity::Jwt { issuer: "corp".to_owned(), user: text.to_owned(), groups: [text.to_owned()].into() },
        Identity::Certificate {
            fingerprint: format!("sha256:{}", "0".repeat(64)),
            common_name: Some(text.to_owned()),
            uris: vec![text.to_owned()],
        },
    ];
    for identity in claimed {
        let written = identity.to_string();
        is_one_sound_line("an identity", &written);
        assert!(written.chars().count() <= MOST_IDENTITY, "{} characters: {written}", written.chars().count());
    }
    taken
}
