//! Whether the caller of a change may make it, judged by the rows of the transaction that writes: what a change touches is only known
//! there, since a caller's picture may be behind. Which role a touch needs is core's ([`switchyard_core::access`]). Pure; no
//! statements in here. Dry runs ask the same functions over the picture. Tests: `hub/tests/grpc_rights.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use switchyard_core::{
    access::{Denied, Role, Touch},
    fleet::{ClusterState, Kind, Mode},
    ids::{ClusterName, Namespace, PolicyKey, PolicyUid, Weight},
    policy::ValidatedPolicy,
    shift::{
        Guard, Move, Shift,
        machine::{self, By, Command},
    },
};

use super::{
    policies::{ApplyError, Caller},
    policy_change::supersedes,
    policy_rows::StoredPolicy,
};

/// A caller, and what he may not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{who} may not {what}: {denied}")]
pub struct MayNot {
    /// As in the audit log.
    pub who: String,
    /// What was asked for, after "may not".
    pub what: String,
    /// What is lacking.
    pub denied: Denied,
}

/// The answer to whether somebody may.
pub type Allowed = Result<(), Box<MayNot>>;

impl Caller {
    /// May this caller do this, which touches that?
    ///
    /// # Errors
    /// [`MayNot`] with what is lacking.
    pub fn may(&self, role: Role, touch: &Touch<'_>, what: impl fmt::Display) -> Allowed {
        self.grants.check(role, touch).map_err(|denied| self.may_not(what, denied))
    }

    /// May this caller cross these safety rules there?
    ///
    /// # Errors
    /// [`MayNot`] with what is lacking.
    pub fn may_cross(&self, role: Role, touch: &Touch<'_>, guards: &[Guard]) -> Allowed {
        if guards.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = guards.iter().map(ToString::to_string).collect();
        let crossed = self.grants.check_overrides(role, touch);
        crossed.map_err(|denied| self.may_not(format!("override {}", names.join(", ")), denied))
    }

    fn may_not(&self, what: impl fmt::Display, denied: Denied) -> Box<MayNot> {
        Box::new(MayNot { who: self.actor.clone(), what: what.to_string(), denied })
    }

    /// Writing a policy is an admin's; the clusters whose weight or priority it changes, or that it brings in or takes out, have to
    /// be his too.
    pub(crate) fn may_apply(&self, before: Option<&StoredPolicy>, policy: &ValidatedPolicy) -> Allowed {
        let touched = before.map_or_else(|| clusters(policy), |before| touched(before, policy));
        let key = &policy.key;
        self.may(Role::Admin, &Touch::Weights(&key.namespace, &touched), format_args!("apply policy {key}"))
    }

    /// Deleting a policy takes it from all of its clusters.
    pub(crate) fn may_delete(&self, stored: &StoredPolicy) -> Allowed {
        let policy = &stored.record.policy;
        let (key, touched) = (&policy.key, clusters(policy));
        self.may(Role::Admin, &Touch::Weights(&key.namespace, &touched), format_args!("delete policy {key}"))
    }

    /// Setting weights is an operator's of the clusters whose weight changes.
    pub(crate) fn may_weigh(&self, key: &PolicyKey, from: &[Weighted], to: &[Weighted]) -> Allowed {
        let touched = differing(from, to);
        let touch = Touch::Weights(&key.namespace, &touched);
        self.may(Role::Operator, &touch, format_args!("set weights of policy {key}"))
    }

    /// Letting clusters return is an operator's of those clusters.
    pub(crate) fn may_let_return(&self, key: &PolicyKey, clusters: &BTreeSet<ClusterName>) -> Allowed {
        let touch = Touch::Weights(&key.namespace, clusters);
        self.may(Role::Operator, &touch, format_args!("let clusters of policy {key} return"))
    }

    /// What is wanted of a whole cluster concerns policies of every namespace. To remove it is an admin's, and so is to take back what an
    /// admin did there.
    pub(crate) fn may_wish(&self, kind: Kind, before: Option<&ClusterState>, cluster: &ClusterName) -> Allowed {
        let removed = before.is_some_and(|state| state.mode == Mode::Removed);
        let role = match kind {
            Kind::Remove => Role::Admin,
            Kind::Uncordon if removed => Role::Admin,
            Kind::Cordon | Kind::Drain | Kind::Uncordon | Kind::Drill => Role::Operator,
        };
        let what = format!("{} cluster {cluster}", kind.to_string().to_lowercase());
        self.may(role, &Touch::Cluster(cluster), what)
    }

    /// Making a shift is an operator's of every cluster whose weight it changes, in every policy of it.
    pub(crate) fn may_shift(&self, shift: &Shift) -> Allowed {
        self.may_move(&shift.moves, &format!("shift {}", policies(&shift.moves)), &shift.spec.overrides)
    }

    /// Saying something to a shift is for those who might have made it.
    pub(crate) fn may_command(&self, shift: &Shift) -> Allowed {
        self.may_move(&shift.moves, &format!("command shift {}", shift.id), &[])
    }

    /// Taking a policy out of its shift is for whoever may change the policy. Where the shift's other policies go back by it, their
    /// weights move too: then it is for those only who may move those.
    pub(crate) fn may_leave(&self, shift: &Shift, policy: &PolicyKey, uid: &PolicyUid) -> Result<(), ApplyError> {
        let by = By { actor: &self.actor, reason: &self.reason };
        // Only what it would write is asked of it, so any time does.
        let left = machine::command(shift.clone(), &Command::Superseded(uid.clone()), by, shift.since);
        let written: BTreeSet<PolicyUid> =
            left.map(|(_, writes)| writes.into_iter().map(|write| write.uid).collect()).unwrap_or_default();
        let others: Vec<Move> = shift.present_moves().filter(|one| written.contains(&one.uid)).cloned().collect();
        let what = format!("take the other policies of shift {} back", shift.id);
        self.may_move(&others, &what, &[])
            .map_err(|_| ApplyError::ShiftActive { policy: policy.clone(), shift: shift.id.clone() })
    }

    fn may_move(&self, moves: &[Move], what: &str, overrides: &[Guard]) -> Allowed {
        for one in moves {
            let touched = differing(&one.from, &one.to);
            let touch = Touch::Weights(&one.policy.namespace, &touched);
            self.may(Role::Operator, &touch, what)?;
            self.may_cross(Role::Operator, &touch, overrides)?;
        }
        Ok(())
    }

    /// True when policies of this namespace may be shown to the caller.
    pub fn sees(&self, namespace: &Namespace) -> bool {
        self.grants.sees_namespace(namespace)
    }
}

type Weighted = (ClusterName, Weight);

fn policies(moves: &[Move]) -> String {
    /// Names in a sentence.
    const MOST: usize = 5;
    let names: Vec<String> = moves.iter().take(MOST).map(|one| one.policy.to_string()).collect();
    let more = moves.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn clusters(policy: &ValidatedPolicy) -> BTreeSet<ClusterName> {
    policy.clusters.iter().map(|(name, _)| name.clone()).collect()
}

/// What a new spec touches: by the specs, and by what is asked for now where the new spec ends that.
fn touched(before: &StoredPolicy, policy: &ValidatedPolicy) -> BTreeSet<ClusterName> {
    let old = &before.record.policy;
    let mut touched = differing(&old.clusters, &policy.clusters);
    let standbys = |policy: &ValidatedPolicy| -> BTreeMap<ClusterName, (u32, Weight)> {
        policy.standbys.iter().map(|one| (one.cluster.clone(), (one.priority, one.weight))).collect()
    };
    touched.extend(unlike(&standbys(old), &standbys(policy)));
    // What is not about single clusters (the match, the backend, health checks, failover) is about all of them.
    let rest = |policy: &ValidatedPolicy| {
        let mut rest = policy.clone();
        (rest.clusters, rest.standbys) = (Vec::new(), Vec::new());
        rest
    };
    if rest(old) != rest(policy) {
        touched.extend(clusters(old).into_iter().chain(clusters(policy)));
    }
    if supersedes(old, policy) {
        touched.extend(differing(&before.record.requested(), &policy.clusters));
    }
    touched
}

fn differing(from: &[Weighted], to: &[Weighted]) -> BTreeSet<ClusterName> {
    let map = |weights: &[Weighted]| weights.iter().cloned().collect::<BTreeMap<_, _>>();
    unlike(&map(from), &map(to))
}

/// The names that only one of the two holds, or that they hold with different values.
fn unlike<V: PartialEq>(from: &BTreeMap<ClusterName, V>, to: &BTreeMap<ClusterName, V>) -> BTreeSet<ClusterName> {
    from.keys().chain(to.keys()).filter(|name| from.get(*name) != to.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use switchyard_core::access::{Grant, Grants, Span};

    use super::*;

    fn weights(pairs: &[(&str, u32)]) -> Vec<Weighted> {
        pairs.iter().map(|(name, weight)| (name.parse().unwrap(), Weight::new(*weight).unwrap())).collect()
    }

    fn caller(namespace: &str, clusters: &[&str], role: Role) -> Caller {
        let grant = Grant {
            role,
            namespaces: Span::Only([namespace.parse().unwrap()].into()),
            clusters: Span::Only(clusters.iter().map(|name| name.parse().unwrap()).collect()),
            overrides: false,
        };
        let (request_id, reason, source) = ("x".to_owned(), String::new(), String::new());
        Caller { request_id, actor: "corp:ann".to_owned(), reason, source, grants: Grants(vec![grant]) }
    }

    #[test]
    fn weights_that_stay_need_no_right_over_their_cluster() {
        let (key, from) = (PolicyKey::new("shop", "web").unwrap(), weights(&[("blue", 50), ("green", 50), ("dr", 0)]));
        let to = weights(&[("blue", 90), ("green", 10), ("dr", 0)]);
        assert_eq!(caller("shop", &["blue", "green"], Role::Operator).may_weigh(&key, &from, &to), Ok(()));
        let refused = caller("shop", &["blue"], Role::Operator).may_weigh(&key, &from, &to).unwrap_err();
        let text = refused.to_string();
        for part in
            ["corp:ann may not set weights of policy shop/web", "role operator", "blue, green", "yardctl whoami"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(caller("other", &["blue", "green"], Role::Admin).may_weigh(&key, &from, &to).is_err());
        assert!(caller("shop", &["blue", "green"], Role::Viewer).may_weigh(&key, &from, &to).is_err());
    }

    #[test]
    fn a_cluster_that_comes_or_goes_is_touched() {
        let (one, two) = (weights(&[("blue", 1)]), weights(&[("blue", 1), ("green", 0)]));
        let green: BTreeSet<ClusterName> = ["green".parse().unwrap()].into();
        assert_eq!(differing(&one, &two), green);
        assert_eq!(differing(&two, &one), green);
        assert_eq!(differing(&two, &two), BTreeSet::new());
    }
}
