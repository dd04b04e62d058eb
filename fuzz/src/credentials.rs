//! What opens doors, from anybody: tokens of this hub and of issuers, an issuer's keys, requests to sign, the names in an agent's
//! certificate. What has one spelling has only one.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use switchyard_core::{
    access::{
        identity::{Identity, check_trust_domain, cluster_of_spiffe, spiffe_of_cluster},
        need,
        tokens::Token,
    },
    ids::ClusterName,
};
use switchyard_hub::{
    access::jwt::{MOST_KEYS, key_set, parse},
    authority::csr::public_key,
    fuzz::{bearer, pages},
};

use crate::text::is_one_sound_line;

/// Characters of an identity in the audit log.
const MOST_IDENTITY: usize = 256;

/// Tries the bytes as each of them; they are taken when they are one.
pub fn run(data: &[u8]) -> bool {
    // A request to sign by what is in its PEM, so that a change of one byte is one.
    let pem =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", STANDARD.encode(data));
    let mut taken = match public_key(&pem) {
        Ok(key) => {
            assert_eq!(public_key(&pem).as_ref(), Ok(&key), "not the same twice");
            true
        }
        Err(violation) => {
            is_one_sound_line("a request to sign", &violation.to_string());
            false
        }
    };
    let Ok(text) = std::str::from_utf8(data) else { return taken };
    taken |= issuers(text);
    if let Err(violation) = public_key(text) {
        is_one_sound_line("a request to sign", &violation.to_string());
        assert!(violation.to_string().len() < 1024, "a request is repeated: {violation}");
    }
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
    taken |= headers(text);
    pages(text);
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

/// Lines, each the value of a header of one call; true when there is one token in them.
fn headers(text: &str) -> bool {
    let mut headers = HeaderMap::new();
    for line in text.lines().take(3) {
        let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) else { continue };
        headers.append(AUTHORIZATION, value);
    }
    match bearer::parse(&headers) {
        Ok(Some(token)) => {
            assert_eq!(headers.len(), 1, "two headers, and one of them counts");
            assert!(token.len() <= 16 * 1024 && token.chars().all(|c| c.is_ascii_graphic()), "{token:?}");
            true
        }
        Ok(None) => {
            assert!(headers.is_empty());
            false
        }
        Err(why) => {
            is_one_sound_line("a header", &why);
            let secret = text.split_whitespace().nth(1).filter(|secret| secret.len() > 20);
            assert!(secret.is_none_or(|secret| !why.contains(secret)), "a secret is shown: {why}");
            false
        }
    }
}

/// A token of a page: what is taken is what was given, and comes from no other text.
fn pages(text: &str) {
    for parts in 1..=3 {
        match pages::parse(text, parts) {
            Ok(None) => assert!(text.is_empty()),
            Ok(Some(key)) => {
                assert_eq!(key.len(), parts);
                let key: Vec<&str> = key.iter().map(String::as_str).collect();
                assert_eq!(pages::token(&key), text.to_ascii_lowercase());
            }
            Err(why) => is_one_sound_line("a token of a page", &why),
        }
    }
}

/// A token of an issuer, taken apart and not believed; and its keys.
fn issuers(text: &str) -> bool {
    let token = parse(text);
    match &token {
        Ok(token) => assert!(token.kid.as_ref().is_none_or(|kid| kid.len() <= 256)),
        Err(error) => is_one_sound_line("a token", &error.to_string()),
    }
    let keys = key_set(text.as_bytes());
    if let Ok(keys) = &keys {
        assert!(keys.len() <= MOST_KEYS, "{} keys", keys.len());
    }
    token.is_ok() || keys.is_ok_and(|keys| !keys.is_empty())
}
