//! Stickiness cookies: minting and reading. A cookie names a group or a target by a keyed digest and carries its own
//! end, so that the load balancer keeps no table, as ALB keeps none. Pure.

use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};

pub const GROUP_COOKIE: &str = "AWSALBTG";
pub const TARGET_COOKIE: &str = "AWSALB";
pub const APP_COOKIE: &str = "AWSALBAPP-0";

/// What a cookie sticks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark(String);

/// The value of a cookie that sticks to `name` until `expires` (seconds since the epoch).
pub fn mint(key: u64, name: &str, expires: i64) -> String {
    let id = digest(key, "id", name);
    let seal = digest(key, "seal", &format!("{id}{expires:016x}"));
    format!("{id}{expires:016x}{seal}")
}

/// What a cookie of the request sticks to; None when there is none, it is forged or it is over.
pub fn read(key: u64, headers: &HeaderMap, cookie: &str, now: i64) -> Option<Mark> {
    let held = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let value = held.filter_map(|pair| pair.trim().split_once('=')).find(|(name, _)| *name == cookie)?.1;
    let (id, expires, seal) = (value.get(..32)?, value.get(32..48)?, value.get(48..)?);
    let valid = digest(key, "seal", &format!("{id}{expires}")) == seal;
    (valid && i64::from_str_radix(expires, 16).ok()? > now).then(|| Mark(id.to_owned()))
}

impl Mark {
    pub fn is(&self, key: u64, name: &str) -> bool {
        self.0 == digest(key, "id", name)
    }
}

/// A Set-Cookie header that lasts `seconds` from `now`.
pub fn set_cookie(key: u64, cookie: &str, name: &str, now: jiff::Timestamp, seconds: u64) -> Option<HeaderValue> {
    let end = now.checked_add(jiff::SignedDuration::from_secs(i64::try_from(seconds).ok()?)).ok()?;
    let text = format!(
        "{cookie}={}; Expires={}; Path=/",
        mint(key, name, end.as_second()),
        end.strftime("%a, %d %b %Y %H:%M:%S GMT")
    );
    HeaderValue::from_str(&text).ok()
}

fn digest(key: u64, purpose: &str, text: &str) -> String {
    let hash = Sha256::new().chain_update(key.to_be_bytes()).chain_update(purpose).chain_update(text).finalize();
    hash[..16].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("a=b; {GROUP_COOKIE}={value}; c").parse().unwrap());
        headers
    }

    #[test]
    fn a_cookie_names_what_it_was_minted_for_until_it_is_over() {
        let value = mint(7, "group-a", 1_000);
        let mark = read(7, &headers(&value), GROUP_COOKIE, 999).unwrap();
        assert!(mark.is(7, "group-a") && !mark.is(7, "group-b"));
        assert_eq!(read(7, &headers(&value), GROUP_COOKIE, 1_000), None);
        assert_eq!(read(7, &headers(&value), TARGET_COOKIE, 999), None);
    }

    #[test]
    fn forged_shortened_and_foreign_cookies_stick_to_nothing() {
        let value = mint(7, "group-a", 1_000);
        let longer = value.replacen("00000000000003e8", "00000000000013e8", 1);
        for bad in [longer.as_str(), &value[..40], "", "ä", &mint(8, "group-a", 1_000)] {
            let mut map = HeaderMap::new();
            map.insert(header::COOKIE, HeaderValue::from_bytes(format!("{GROUP_COOKIE}={bad}").as_bytes()).unwrap());
            assert_eq!(read(7, &map, GROUP_COOKIE, 999), None, "{bad}");
        }
    }
}
