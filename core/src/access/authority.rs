//! Which authority issues, which are trusted, how long a certificate lives. Rotation never leaves a replica with a certificate that it
//! does not trust, nor an agent without one: the new authority is trusted at once and issues a little later, the old one is trusted
//! until the last certificate that it issued has ended.

use jiff::{SignedDuration, Timestamp};

/// From the making of an authority until it issues: every replica reads the store each second, and has to trust it by then.
pub const ISSUES_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// Clocks of hub and agents may differ by as much.
pub const SKEW: SignedDuration = SignedDuration::from_secs(300);

/// What counts of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its id.
    pub id: String,
    /// From then on it issues.
    pub issues_from: Timestamp,
    /// Of its own certificate.
    pub not_after: Timestamp,
    /// Of the certificates that it issued the one that ends last; none: it issued none.
    pub last_issued_ends: Option<Timestamp>,
}

/// The authority that issues now: the youngest that may. When none may yet, the youngest of all, so that a new hub need not wait.
pub fn issuing(authorities: &[Authority], now: Timestamp) -> Option<&Authority> {
    let living = || authorities.iter().filter(|authority| authority.not_after > now);
    let by_age = |authority: &&Authority| (authority.issues_from, authority.id.clone());
    let ready = living().filter(|authority| authority.issues_from <= now).max_by_key(by_age);
    ready.or_else(|| living().min_by_key(by_age))
}

/// Until when an authority is trusted. The one that issues, and those that will: until their own end. One that was replaced: until what
/// it issued has ended, and for the time of a change of replicas at the least. That time counts from the authority that came right
/// after it: a later rotation does not bring back one that was dropped.
pub fn trusted_until(authority: &Authority, authorities: &[Authority], now: Timestamp) -> Timestamp {
    let age = |one: &Authority| (one.issues_from, one.id.clone());
    let issues = |one: &&Authority| one.issues_from <= now && one.not_after > now;
    let younger = authorities.iter().filter(issues).filter(|one| age(one) > age(authority));
    let Some(next) = younger.min_by_key(|one| age(one)) else { return authority.not_after };
    let ends = authority.last_issued_ends.unwrap_or(next.issues_from);
    ends.max(next.issues_from.saturating_add(SKEW).unwrap_or(Timestamp::MAX)).min(authority.not_after)
}

/// The authorities whose certificates are believed.
pub fn trusted(authorities: &[Authority], now: Timestamp) -> Vec<&Authority> {
    authorities.iter().filter(|authority| trusted_until(authority, authorities, now) > now).collect()
}

/// The times of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// A little before it was issued, for clocks that are behind.
    pub not_before: Timestamp,
    /// Not after that of the authority.
    pub not_after: Timestamp,
    /// After two thirds of its life: there are many tries left when the hub is away.
    pub renew_at: Timestamp,
}

/// The times of a certificate that is issued now, to live for `ttl`; none when the authority has ended.
pub fn life(now: Timestamp, ttl: SignedDuration, authority_ends: Timestamp) -> Option<Life> {
    let not_after = now.saturating_add(ttl).ok()?.min(authority_ends);
    if not_after <= now {
        return None;
    }
    let lives = not_after.duration_since(now);
    let renew_at = now.saturating_add(lives * 2 / 3).ok()?;
    Some(Life { not_before: now.saturating_sub(SKEW).unwrap_or(now), not_after, renew_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn authority(id: &str, issues_from: i64, last: Option<i64>) -> Authority {
        Authority {
            id: id.into(),
            issues_from: at(issues_from),
            not_after: at(1_000_000),
            last_issued_ends: last.map(at),
        }
    }

    fn ids(authorities: &[&Authority]) -> Vec<String> {
        authorities.iter().map(|authority| authority.id.clone()).collect()
    }

    #[test]
    fn a_new_authority_is_trusted_before_it_issues_and_the_old_one_until_its_last_certificate_ends() {
        let both = [authority("a", 10, Some(5_000)), authority("b", 1_010, None)];
        assert_eq!(issuing(&both, at(1_000)).unwrap().id, "a");
        assert_eq!(ids(&trusted(&both, at(1_000))), ["a", "b"]);
        assert_eq!(issuing(&both, at(1_010)).unwrap().id, "b");
        assert_eq!(ids(&trusted(&both, at(4_999))), ["a", "b"]);
        assert_eq!(ids(&trusted(&both, at(5_000))), ["b"]);
    }

    #[test]
    fn an_authority_that_issued_nothing_is_kept_for_replicas_that_do_not_know_the_new_one_yet() {
        let both = [authority("a", 10, None), authority("b", 1_010, None)];
        assert_eq!(ids(&trusted(&both, at(1_011))), ["a", "b"]);
        assert_eq!(ids(&trusted(&both, at(1_311))), ["b"]);
    }

    #[test]
    fn an_authority_that_was_dropped_is_not_trusted_again_after_a_later_rotation() {
        let all = [authority("stolen", 10, None), authority("b", 1_010, Some(9_000)), authority("c", 5_000, None)];
        assert_eq!(ids(&trusted(&all, at(4_999))), ["b", "c"]);
        assert_eq!(ids(&trusted(&all, at(5_001))), ["b", "c"]);
    }

    #[test]
    fn the_first_authority_issues_at_once() {
        assert_eq!(issuing(&[authority("a", 10, None)], at(0)).unwrap().id, "a");
        assert_eq!(issuing(&[], at(0)), None);
        let ended = Authority { not_after: at(5), ..authority("a", 1, None) };
        assert_eq!(issuing(&[ended], at(5)), None);
    }

    #[test]
    fn a_certificate_ends_with_its_authority_at_the_latest() {
        let day = SignedDuration::from_hours(24);
        let long = life(at(0), day, at(1_000_000)).unwrap();
        assert_eq!((long.not_after, long.renew_at), (at(86_400), at(57_600)));
        let short = life(at(0), day, at(300)).unwrap();
        assert_eq!((short.not_after, short.renew_at), (at(300), at(200)));
        assert_eq!(life(at(300), day, at(300)), None);
    }
}
