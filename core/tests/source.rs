//! Who owns a policy of a name, and what becomes of it: rule by rule, then by random histories.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use switchyard_core::{
    ids::{ClusterName, PolicyKey},
    policy::{ClusterTrafficPolicy, ValidatedPolicy, validate, validate_update},
    source::{Claim, Fate, Holder, InForce, Owner, Place, Verdict, absence, settle, standing, words},
    status::Reason,
};

fn policy(load_balancer: &str, weight: u32) -> ValidatedPolicy {
    let manifest = serde_json::json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {
            "listener": {"loadBalancer": load_balancer, "port": 80},
            "match": {"hostnames": ["a.example.com"]},
            "backend": {"service": {"name": "web", "port": "http"}},
            "clusters": [{"name": "blue", "weight": weight}],
        },
    });
    validate(&serde_json::from_value::<ClusterTrafficPolicy>(manifest).unwrap()).unwrap()
}

fn cluster(name: &str) -> ClusterName {
    name.parse().unwrap()
}

fn key() -> PolicyKey {
    PolicyKey::new("shop", "checkout").unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A valid claim of generation 1, with a UID of its cluster's name.
fn claim(name: &str, wanted: ValidatedPolicy, since: i64) -> Claim {
    Claim {
        cluster: cluster(name),
        uid: name.parse().unwrap(),
        generation: 1,
        verdict: Verdict::Valid(Box::new(wanted)),
        first_seen: at(since),
        absent_since: None,
    }
}

fn refused(claim: Claim) -> Claim {
    Claim { verdict: Verdict::Refused("spec.order: \"0\" is outside 1 to 49000; use another".to_owned()), ..claim }
}

fn absent(claim: Claim) -> Claim {
    Claim { absent_since: Some(at(1000)), ..claim }
}

fn owned_by(name: &str) -> Owner {
    Owner::Resource(Holder { cluster: cluster(name), uid: name.parse().unwrap(), generation: 1 })
}

fn in_force<'a>(owner: &'a Owner, policy: &'a ValidatedPolicy) -> Option<InForce<'a>> {
    Some(InForce { owner, policy, deleting: false })
}

#[test]
fn the_oldest_valid_claim_makes_the_policy_and_an_absent_one_makes_none() {
    let wanted = || policy("shared", 1);
    let claims = [claim("green", wanted(), 20), refused(claim("dr", wanted(), 1)), claim("blue", wanted(), 10)];
    assert_eq!(settle(None, &claims, false), Fate::Create(cluster("blue")));
    let same_age = [claim("green", wanted(), 10), claim("blue", wanted(), 10)];
    assert_eq!(settle(None, &same_age, false), Fate::Create(cluster("blue")));
    assert_eq!(settle(None, &[absent(claim("blue", wanted(), 10))], false), Fate::Keep);
    assert_eq!(settle(None, &[refused(claim("blue", wanted(), 10))], false), Fate::Keep);
}

#[test]
fn a_claim_waits_while_somebody_else_owns_the_policy() {
    let (old, wanted) = (policy("shared", 1), policy("shared", 2));
    let claims = [claim("green", wanted.clone(), 1)];
    assert_eq!(settle(in_force(&Owner::Api, &old), &claims, false), Fate::Keep);
    let found = standing(&key(), in_force(&Owner::Api, &old), &claims[0]);
    assert_eq!((found.place, found.reason), (Place::Waiting, Reason::OwnedElsewhere));
    assert!(found.message.contains("the API") && found.message.contains("yardctl delete"), "{}", found.message);
    let blue = owned_by("blue");
    let claims = [claim("blue", old.clone(), 5), claim("green", wanted, 1)];
    assert_eq!(settle(in_force(&blue, &old), &claims, false), Fate::Keep);
    let found = standing(&key(), in_force(&blue, &old), &claims[1]);
    assert!(found.message.contains("cluster blue"), "{}", found.message);
    assert_eq!(found.generation_in_force, None);
}

#[test]
fn a_new_generation_of_the_owner_is_taken_and_an_invalid_one_changes_nothing() {
    let old = policy("shared", 1);
    let blue = owned_by("blue");
    let next = Claim { generation: 2, ..claim("blue", policy("shared", 2), 1) };
    assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&next), false), Fate::Update(cluster("blue")));
    for bad in [refused(next.clone()), Claim { generation: 2, ..claim("blue", policy("other", 1), 1) }] {
        assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&bad), false), Fate::Keep);
        let found = standing(&key(), in_force(&blue, &old), &bad);
        assert_eq!((found.place, found.reason), (Place::Owner, Reason::InvalidSpec));
        assert_eq!(found.generation_in_force, Some(1));
        assert!(found.message.ends_with("generation 1 stays in force"), "{}", found.message);
        assert!(found.message.contains("spec."), "{}", found.message);
    }
}

/// An API server restored from a backup counts on from an older generation, and so comes by one that the hub has seen.
#[test]
fn another_spec_under_a_generation_that_is_in_force_is_taken_and_never_said_to_be_stored_already() {
    let old = policy("shared", 1);
    let blue = owned_by("blue");
    let restored = claim("blue", policy("shared", 2), 1);
    assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&restored), false), Fate::Update(cluster("blue")));
    assert!(!standing(&key(), in_force(&blue, &old), &restored).is_accepted());
    let misfit = claim("blue", policy("other", 1), 1);
    assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&misfit), false), Fate::Keep);
    assert_eq!(standing(&key(), in_force(&blue, &old), &misfit).reason, Reason::InvalidSpec);
    let same = claim("blue", old.clone(), 1);
    assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&same), false), Fate::Keep);
    assert!(standing(&key(), in_force(&blue, &old), &same).is_accepted());
}

#[test]
fn an_owner_that_goes_hands_over_to_the_oldest_claim_that_can_carry_the_policy_on() {
    let old = policy("shared", 1);
    let blue = owned_by("blue");
    let misfit = claim("aaa", policy("other", 1), 1);
    let fits = claim("green", policy("shared", 2), 2);
    let younger = claim("dr", policy("shared", 3), 3);
    let claims = [misfit.clone(), younger, fits];
    assert_eq!(settle(in_force(&blue, &old), &claims, false), Fate::HandOver(cluster("green")));
    // The same when a call deletes a policy of the API.
    assert_eq!(settle(in_force(&Owner::Api, &old), &claims, true), Fate::HandOver(cluster("green")));
    assert_eq!(settle(in_force(&blue, &old), &[misfit], false), Fate::Delete);
    assert_eq!(settle(in_force(&blue, &old), &[], false), Fate::Delete);
}

#[test]
fn an_absent_claim_carries_a_policy_on_only_when_there_is_no_other() {
    let old = policy("shared", 1);
    let blue = owned_by("blue");
    let ghost = absent(claim("aaa", policy("shared", 1), 1));
    let there = claim("green", policy("shared", 1), 9);
    let both = [ghost.clone(), there];
    assert_eq!(settle(in_force(&blue, &old), &both, false), Fate::HandOver(cluster("green")));
    assert_eq!(settle(in_force(&blue, &old), &[ghost], false), Fate::HandOver(cluster("aaa")));
}

#[test]
fn a_policy_on_its_way_out_stays_when_a_claim_can_carry_it_on_and_else_the_claim_waits_for_its_end() {
    let old = policy("shared", 1);
    let blue = owned_by("blue");
    let leaving = Some(InForce { owner: &blue, policy: &old, deleting: true });
    let again = Claim { uid: "blue-2".parse().unwrap(), ..claim("blue", policy("shared", 5), 1) };
    assert_eq!(settle(leaving, std::slice::from_ref(&again), false), Fate::HandOver(cluster("blue")));
    let misfit = Claim { uid: "blue-2".parse().unwrap(), ..claim("blue", policy("other", 5), 1) };
    assert_eq!(settle(leaving, std::slice::from_ref(&misfit), false), Fate::Keep);
    let found = standing(&key(), leaving, &misfit);
    assert_eq!((found.place, found.reason), (Place::Waiting, Reason::Deleting));
    assert!(found.message.contains("spec.listener"), "{}", found.message);
    assert_eq!(settle(None, std::slice::from_ref(&misfit), false), Fate::Create(cluster("blue")));
}

#[test]
fn a_resource_made_anew_goes_on_with_its_policy_or_replaces_it_when_it_cannot() {
    let old = policy("shared", 1);
    let blue = owned_by("blue");
    let again = |wanted| Claim { uid: "blue-2".parse().unwrap(), ..claim("blue", wanted, 1) };
    let same = again(policy("shared", 1));
    assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&same), false), Fate::Update(cluster("blue")));
    // `kubectl replace --force` is how a field that cannot change is changed.
    let other = again(policy("other", 1));
    assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&other), false), Fate::Delete);
    let bad = refused(again(policy("shared", 1)));
    assert_eq!(settle(in_force(&blue, &old), std::slice::from_ref(&bad), false), Fate::Keep);
    let found = standing(&key(), in_force(&blue, &old), &bad);
    assert_eq!((found.place, found.generation_in_force), (Place::Owner, None));
}

fn keys(names: &[&str]) -> BTreeSet<PolicyKey> {
    names.iter().map(|name| PolicyKey::new("shop", *name).unwrap()).collect()
}

fn known(names: &[&str], held: &[&str]) -> BTreeMap<PolicyKey, bool> {
    let held = keys(held);
    keys(names).into_iter().map(|key| (key.clone(), held.contains(&key))).collect()
}

#[test]
fn a_list_that_lacks_at_most_half_is_believed() {
    let judged = absence(&known(&["a", "b", "c", "d"], &[]), &keys(&["a", "b", "x"]), false);
    assert_eq!((judged.gone, judged.held), (keys(&["c", "d"]), keys(&[])));
    assert_eq!(absence(&known(&["a"], &[]), &keys(&["a", "b"]), false), absence(&BTreeMap::new(), &keys(&[]), false));
}

#[test]
fn an_empty_list_or_one_that_lacks_most_takes_nothing_away() {
    let judged = absence(&known(&["a"], &[]), &keys(&[]), false);
    assert_eq!((judged.gone, judged.held), (keys(&[]), keys(&["a"])));
    let judged = absence(&known(&["a", "b", "c"], &[]), &keys(&["a"]), false);
    assert_eq!((judged.gone, judged.held), (keys(&[]), keys(&["b", "c"])));
    // All others are unknown to the hub: that is no list of this cluster's policies either.
    let judged = absence(&known(&["a", "b"], &[]), &keys(&["x", "y", "z"]), false);
    assert_eq!((judged.gone, judged.held), (keys(&[]), keys(&["a", "b"])));
}

#[test]
fn a_list_of_resources_that_were_made_anew_is_no_evidence_of_what_is_missing() {
    let judged = absence(&known(&["a", "b", "c", "d"], &["d"]), &keys(&["a", "b"]), true);
    assert_eq!((judged.gone, judged.held), (keys(&[]), keys(&["c"])));
}

#[test]
fn what_is_held_stays_held_whatever_later_lists_say() {
    // Held before: b and c. Of four, three are missing now, so d is held too.
    let judged = absence(&known(&["a", "b", "c", "d"], &["b", "c"]), &keys(&["a"]), false);
    assert_eq!((judged.gone, judged.held), (keys(&[]), keys(&["d"])));
    // An operator deleted b: half is missing, and that is no reason to take c away.
    let judged = absence(&known(&["a", "c"], &["c"]), &keys(&["a"]), false);
    assert_eq!((judged.gone, judged.held), (keys(&[]), keys(&[])));
}

#[test]
fn many_faults_stay_a_text_that_fits_a_condition() {
    let fault = switchyard_core::policy::Violation {
        field: "spec".to_owned(),
        value: "ä".repeat(256),
        problem: "is wrong".to_owned(),
        remedy: "correct it".to_owned(),
    };
    let text = words(&vec![fault; 100]);
    assert!(text.ends_with("...") && text.chars().count() <= 4099);
    assert_eq!(words(&[]), "");
}

/// What happens to a name.
#[derive(Clone, Debug)]
enum Event {
    Upsert { cluster: usize, uid: u8, wanted: Option<(bool, u32)> },
    Deleted { cluster: usize, uid: u8 },
    Missing { cluster: usize },
    ApiApply { wanted: (bool, u32) },
    ApiDelete,
    TakenDown,
}

const NAMES: [&str; 3] = ["blue", "green", "dr"];

fn event() -> impl Strategy<Value = Event> {
    let wanted = || (any::<bool>(), 1..4_u32);
    prop_oneof![
        4 => (0..3_usize, 1..3_u8, proptest::option::weighted(0.8, wanted()))
            .prop_map(|(cluster, uid, wanted)| Event::Upsert { cluster, uid, wanted }),
        3 => (0..3_usize, 1..3_u8).prop_map(|(cluster, uid)| Event::Deleted { cluster, uid }),
        1 => (0..3_usize).prop_map(|cluster| Event::Missing { cluster }),
        1 => wanted().prop_map(|wanted| Event::ApiApply { wanted }),
        1 => Just(Event::ApiDelete),
        1 => Just(Event::TakenDown),
    ]
}

fn variant((other, weight): (bool, u32)) -> ValidatedPolicy {
    policy(if other { "other" } else { "shared" }, weight)
}

/// A hub that knows one name: as plain as can be, and as literal.
#[derive(Clone, Default)]
struct Desk {
    present: Option<(Owner, ValidatedPolicy, bool)>,
    claims: BTreeMap<ClusterName, Claim>,
    clock: i64,
}

impl Desk {
    fn in_force(&self) -> Option<InForce<'_>> {
        self.present.as_ref().map(|(owner, policy, deleting)| InForce { owner, policy, deleting: *deleting })
    }

    fn claims(&self) -> Vec<Claim> {
        self.claims.values().cloned().collect()
    }

    fn settle(&mut self, leaves: bool) {
        match settle(self.in_force(), &self.claims(), leaves) {
            Fate::Keep => {}
            Fate::Create(name) | Fate::Update(name) | Fate::HandOver(name) => {
                let claim = &self.claims[&name];
                let Verdict::Valid(policy) = &claim.verdict else { panic!("{claim:?} was chosen") };
                let holder = Holder { cluster: name, uid: claim.uid.clone(), generation: claim.generation };
                self.present = Some((Owner::Resource(holder), (**policy).clone(), false));
            }
            Fate::Delete => self.present.as_mut().unwrap().2 = true,
        }
    }

    fn happens(&mut self, event: &Event) {
        self.clock += 1;
        let mut leaves = false;
        match event {
            Event::Upsert { cluster: i, uid, wanted } => {
                let name = cluster(NAMES[*i]);
                let uid = format!("{}-{uid}", NAMES[*i]).parse().unwrap();
                let before = self.claims.get(&name).filter(|before| before.uid == uid);
                let verdict = match wanted {
                    Some(wanted) => Verdict::Valid(Box::new(variant(*wanted))),
                    None => Verdict::Refused("no".to_owned()),
                };
                let claim = Claim {
                    cluster: name.clone(),
                    uid,
                    generation: before.map_or(1, |before| before.generation + 1),
                    verdict,
                    first_seen: before.map_or(at(self.clock), |before| before.first_seen),
                    absent_since: None,
                };
                self.claims.insert(name, claim);
            }
            Event::Deleted { cluster: i, uid } => {
                let (name, uid) = (cluster(NAMES[*i]), format!("{}-{uid}", NAMES[*i]));
                if self.claims.get(&name).is_some_and(|claim| claim.uid.as_str() == uid) {
                    self.claims.remove(&name);
                }
            }
            Event::Missing { cluster: i } => {
                if let Some(claim) = self.claims.get_mut(&cluster(NAMES[*i])) {
                    claim.absent_since = Some(at(self.clock));
                }
            }
            Event::ApiApply { wanted } => match &self.present {
                None => self.present = Some((Owner::Api, variant(*wanted), false)),
                Some((Owner::Api, old, false)) if validate_update(old, &variant(*wanted)).is_ok() => {
                    self.present = Some((Owner::Api, variant(*wanted), false));
                }
                Some(_) => {}
            },
            Event::ApiDelete => leaves = matches!(&self.present, Some((Owner::Api, _, false))),
            Event::TakenDown => self.present = self.present.take().filter(|(_, _, deleting)| !deleting),
        }
        self.settle(leaves);
    }

    fn someone_fits(&self, old: &ValidatedPolicy) -> bool {
        self.claims.values().any(|claim| match &claim.verdict {
            Verdict::Valid(wanted) => validate_update(old, wanted).is_ok(),
            Verdict::Refused(_) => false,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn traffic_survives_every_history(events in prop::collection::vec(event(), 1..40)) {
        let mut desk = Desk::default();
        for event in events {
            let before = desk.clone();
            desk.happens(&event);
            let claims = desk.claims();

            // Decided once, it is decided.
            prop_assert_eq!(settle(desk.in_force(), &claims, false), Fate::Keep, "{:?}", event);

            // At most one claim says that it is the policy, and it is the owner's.
            let places = claims.iter().map(|claim| (claim, standing(&key(), desk.in_force(), claim)));
            let owners: Vec<_> = places.filter(|(_, found)| found.place == Place::Owner).collect();
            prop_assert!(owners.len() <= 1);
            for (claim, _) in &owners {
                let owner = desk.in_force().unwrap().owner.cluster().cloned();
                prop_assert_eq!(owner.as_ref(), Some(&claim.cluster));
            }

            // An owner that is a resource exists, as long as its policy is meant to stay.
            if let Some((Owner::Resource(holder), _, false)) = &desk.present {
                prop_assert!(desk.claims.contains_key(&holder.cluster));
            }

            let Some((_, old, was_deleting)) = &before.present else { continue };
            if !was_deleting && !matches!(event, Event::TakenDown) {
                // Nothing vanishes at once, and nothing is taken down while somebody can carry it on.
                let deleting = desk.present.as_ref().unwrap().2;
                prop_assert!(!(deleting && desk.someone_fits(old)), "{:?}", event);
                let now = &desk.present.as_ref().unwrap().1;
                if matches!(event, Event::Upsert { wanted: None, .. } | Event::Missing { .. }) {
                    prop_assert!(!deleting && now == old, "{:?}", event);
                }
                // What cannot change in force does not change, whoever owns it.
                prop_assert!(validate_update(old, now).is_ok(), "{:?}", event);
            }
            // A policy that leaves and could be carried on stays.
            if let Some((_, policy, true)) = &desk.present {
                prop_assert!(!desk.someone_fits(policy));
            }
        }
    }

    #[test]
    fn a_list_never_takes_more_than_half(known in prop::collection::btree_map(0..20_u8, any::<bool>(), 0..20),
                                         listed in prop::collection::btree_set(0..25_u8, 0..25), renewed in any::<bool>()) {
        let name = |n: &u8| PolicyKey::new("shop", format!("p{n}")).unwrap();
        let known: BTreeMap<PolicyKey, bool> = known.iter().map(|(n, held)| (name(n), *held)).collect();
        let listed: BTreeSet<PolicyKey> = listed.iter().map(name).collect();
        let judged = absence(&known, &listed, renewed);
        prop_assert!(judged.gone.len() * 2 <= known.len());
        prop_assert!(judged.gone.is_empty() || !(renewed || listed.is_empty()));
        prop_assert!(judged.gone.is_empty() || judged.held.is_empty());
        for key in judged.gone.iter().chain(&judged.held) {
            prop_assert!(!listed.contains(key));
            prop_assert_eq!(known.get(key), Some(&false));
        }
    }
}
