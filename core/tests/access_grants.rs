//! What grants allow, against a second reading of the rule: every cell that a call touches lies in a grant that suffices.

use std::collections::BTreeSet;

use proptest::prelude::*;
use switchyard_core::{
    access::{Grant, Grants, Role, Span, Touch},
    ids::{ClusterName, Namespace},
};

const NAMESPACES: [&str; 3] = ["pay", "shop", "web"];
const CLUSTERS: [&str; 3] = ["blue", "green", "red"];
const ROLES: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

fn namespace(i: usize) -> Namespace {
    NAMESPACES[i].parse().unwrap()
}

fn cluster(i: usize) -> ClusterName {
    CLUSTERS[i].parse().unwrap()
}

fn span<T: Ord + Clone + std::fmt::Debug + 'static>(of: fn(usize) -> T) -> impl Strategy<Value = Span<T>> {
    prop_oneof![
        1 => Just(Span::All),
        4 => proptest::collection::btree_set(0..3usize, 1..3).prop_map(move |some| Span::Only(some.into_iter().map(of).collect())),
    ]
}

fn grant() -> impl Strategy<Value = Grant> {
    (0..3usize, span(namespace), span(cluster), any::<bool>()).prop_map(|(role, namespaces, clusters, overrides)| {
        Grant { role: ROLES[role], namespaces, clusters, overrides }
    })
}

fn grants() -> impl Strategy<Value = Grants> {
    proptest::collection::vec(grant(), 0..4).prop_map(Grants)
}

/// The fourth name of each stands for those that come later: only `All` holds it.
fn cell(grants: &Grants, role: Role, overrides: bool, n: usize, c: usize) -> bool {
    grants.0.iter().any(|grant| {
        let n = match &grant.namespaces {
            Span::All => true,
            Span::Only(names) => n < 3 && names.contains(&namespace(n)),
        };
        let c = match &grant.clusters {
            Span::All => true,
            Span::Only(names) => c < 3 && names.contains(&cluster(c)),
        };
        grant.role >= role && (grant.overrides || !overrides) && n && c
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_weight_may_be_moved_where_each_cluster_is_granted(
        grants in grants(), role in 0..3usize, overrides: bool, n in 0..3usize,
        some in proptest::collection::btree_set(0..3usize, 1..4)
    ) {
        let (role, space) = (ROLES[role], namespace(n));
        let clusters: BTreeSet<ClusterName> = some.iter().map(|c| cluster(*c)).collect();
        let touch = Touch::Weights(&space, &clusters);
        let allowed = if overrides { grants.check_overrides(role, &touch) } else { grants.check(role, &touch) };
        let expected = some.iter().all(|c| cell(&grants, role, overrides, n, *c));
        prop_assert_eq!(allowed.is_ok(), expected);
    }

    #[test]
    fn whole_clusters_and_the_whole_hub_need_what_is_there_and_what_will_be(grants in grants(), role in 0..3usize, c in 0..3usize) {
        let role = ROLES[role];
        let name = cluster(c);
        // One grant has to hold them all, present and future.
        let single = |c: usize| grants.0.iter().any(|grant| {
            let alone = Grants(vec![grant.clone()]);
            (0..4).all(|n| cell(&alone, role, false, n, c))
        });
        prop_assert_eq!(grants.check(role, &Touch::Cluster(&name)).is_ok(), single(c));
        let whole = grants.0.iter().any(|grant| {
            let alone = Grants(vec![grant.clone()]);
            (0..4).all(|n| (0..4).all(|c| cell(&alone, role, false, n, c)))
        });
        prop_assert_eq!(grants.check(role, &Touch::Hub).is_ok(), whole);
    }

    #[test]
    fn nobody_gives_away_more_than_he_has(own in grants(), given in grants(), role in 0..3usize, overrides: bool, n in 0..4usize, c in 0..4usize) {
        if own.covers(&given) && cell(&given, ROLES[role], overrides, n, c) {
            prop_assert!(cell(&own, ROLES[role], overrides, n, c));
        }
        prop_assert!(own.covers(&own));
        prop_assert!(Grants::everything().covers(&given));
        prop_assert_eq!(Grants::none().covers(&given), given.is_empty());
    }

    #[test]
    fn what_is_seen_is_what_some_grant_holds(grants in grants(), n in 0..3usize, c in 0..3usize) {
        let any = |n: &[usize], c: &[usize]| n.iter().any(|n| c.iter().any(|c| cell(&grants, Role::Viewer, false, *n, *c)));
        prop_assert_eq!(grants.sees_namespace(&namespace(n)), any(&[n], &[0, 1, 2, 3]));
        prop_assert_eq!(grants.sees_cluster(&cluster(c)), any(&[0, 1, 2, 3], &[c]));
        prop_assert_eq!(grants.sees_cell(&namespace(n), &cluster(c)), any(&[n], &[c]));
        let listed = grants.seen_namespaces();
        prop_assert_eq!(listed.is_none_or(|seen| seen.contains(&namespace(n))), grants.sees_namespace(&namespace(n)));
    }
}

#[test]
fn a_refusal_says_what_is_needed_what_there_is_and_what_helps() {
    let shop = namespace(1);
    let clusters = BTreeSet::from([cluster(0), cluster(1)]);
    let grants = Grants(vec![Grant {
        role: Role::Operator,
        namespaces: Span::Only(BTreeSet::from([shop.clone()])),
        clusters: Span::Only(BTreeSet::from([cluster(0)])),
        overrides: false,
    }]);
    let denied = grants.check(Role::Operator, &Touch::Weights(&shop, &clusters)).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "the role operator over policies of namespace shop on the clusters blue, green is needed, and this caller has operator \
         (namespaces shop; clusters blue); ask an admin for it (docs/access.md), see what you have with `yardctl whoami`"
    );
    let denied = Grants::none().check_overrides(Role::Admin, &Touch::Hub).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "the role admin with overrides over all namespaces and all clusters is needed, and there is no binding for this caller; \
         ask an admin for it (docs/access.md), see what you have with `yardctl whoami`"
    );
}
