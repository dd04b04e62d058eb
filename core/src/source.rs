//! Policies that stand in member clusters as resources: whose word counts for a name, and what becomes of the policy when a
//! resource comes, changes or goes.
//!
//! A policy has one owner: the API, or a resource in one cluster. Every other resource of that name is a claim that waits. The
//! rules, in the order in which they protect traffic:
//! - What is in force is taken away only when its owner went and no claim can carry it on: ownership is handed over first.
//! - A spec that is not valid changes nothing of what is in force.
//! - What is missing from a list goes only while most of the list is there ([`absence`]).
//!
//! Looks at one name at a time, but for lists. Tests: `core/tests/source.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterName, PolicyKey, ResourceUid},
    policy::{ValidatedPolicy, Violation, validate_update},
    status::Reason,
};

/// Resources that the hub takes from one cluster. A policy needs a rule, and a load balancer has 100 (quota "rules per Application
/// Load Balancer"), so this is the stock of twenty load balancers.
pub const MOST_CLAIMS: usize = 2000;

/// A resource that asks for the policy of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where it stands.
    pub cluster: ClusterName,
    /// Which it is.
    pub uid: ResourceUid,
    /// Its generation.
    pub generation: u64,
    /// What it asks for.
    pub verdict: Verdict,
    /// Since when it is known under this UID; the oldest claim is the first to take over.
    pub first_seen: Timestamp,
    /// Since when it is missing from its cluster's list, on evidence too weak to believe it gone.
    pub absent_since: Option<Timestamp>,
}

/// What a resource asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This policy.
    Valid(Box<ValidatedPolicy>),
    /// Nothing that can be taken: the faults, for people.
    Refused(String),
}

/// Who decides about a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// Callers of the API.
    #[default]
    Api,
    /// A resource.
    Resource(Holder),
}

/// The resource that owns a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Where it stands.
    pub cluster: ClusterName,
    /// Which it is.
    pub uid: ResourceUid,
    /// The generation of it that is in force.
    pub generation: u64,
}

impl Owner {
    /// The cluster whose resource owns the policy.
    pub fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Owner::Api => None,
            Owner::Resource(holder) => Some(&holder.cluster),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Api => f.write_str("the API"),
            Owner::Resource(holder) => write!(f, "the resource of that name in cluster {}", holder.cluster),
        }
    }
}

/// The policy that there is under a name.
#[derive(Clone, Copy, Debug)]
pub struct InForce<'a> {
    /// Who owns it.
    pub owner: &'a Owner,
    /// What it asks for.
    pub policy: &'a ValidatedPolicy,
    /// True: it is on its way out.
    pub deleting: bool,
}

/// What becomes of the policy under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing changes.
    Keep,
    /// There is none, and this cluster's claim makes one.
    Create(ClusterName),
    /// Its owner's resource, in this cluster, has a new generation, or was made anew.
    Update(ClusterName),
    /// This cluster's claim owns it from now on. If it is on its way out, it stays.
    HandOver(ClusterName),
    /// Nobody wants it: it is to be taken down.
    Delete,
}

/// Decides. `owner_leaves` is true when the owner gives the policy up (a call to delete it). The claims are those that there are
/// now, the owner's own among them; an owner whose claim is missing is gone.
pub fn settle(present: Option<InForce<'_>>, claims: &[Claim], owner_leaves: bool) -> Fate {
    let Some(present) = present else {
        // Nothing is made on the word of a resource that may not exist.
        let first = candidates(claims).into_iter().find(|(claim, _)| claim.absent_since.is_none());
        return first.map_or(Fate::Keep, |(claim, _)| Fate::Create(claim.cluster.clone()));
    };
    if !present.deleting && !owner_leaves {
        let kept = match present.owner {
            Owner::Api => Some(Fate::Keep),
            Owner::Resource(holder) => {
                let own = claims.iter().find(|claim| claim.cluster == holder.cluster);
                own.and_then(|own| by_its_owner(holder, own, present.policy))
            }
        };
        if let Some(fate) = kept {
            return fate;
        }
    }
    let fits = |policy: &ValidatedPolicy| validate_update(present.policy, policy).is_ok();
    match candidates(claims).into_iter().find(|(_, policy)| fits(policy)) {
        Some((claim, _)) => Fate::HandOver(claim.cluster.clone()),
        None if present.deleting => Fate::Keep,
        None => Fate::Delete,
    }
}

/// What the owner's resource makes of its policy; none: the resource that owned it was replaced by one that cannot go on with it.
fn by_its_owner(holder: &Holder, own: &Claim, policy: &ValidatedPolicy) -> Option<Fate> {
    let same = own.uid == holder.uid;
    match &own.verdict {
        // An API server that was restored from a backup counts on from an older generation, and comes by a known one again.
        Verdict::Valid(wanted) if same && own.generation == holder.generation && **wanted == *policy => {
            Some(Fate::Keep)
        }
        Verdict::Refused(_) => Some(Fate::Keep),
        Verdict::Valid(wanted) if validate_update(policy, wanted).is_ok() => Some(Fate::Update(own.cluster.clone())),
        Verdict::Valid(_) if same => Some(Fate::Keep),
        Verdict::Valid(_) => None,
    }
}

/// The valid claims in the order in which they take over: the oldest first, then by name. Those that are missing from their
/// cluster's list come last: better carried on by one of them than taken down.
fn candidates(claims: &[Claim]) -> Vec<(&Claim, &ValidatedPolicy)> {
    let mut valid: Vec<(&Claim, &ValidatedPolicy)> = claims
        .iter()
        .filter_map(|claim| match &claim.verdict {
            Verdict::Valid(policy) => Some((claim, &**policy)),
            Verdict::Refused(_) => None,
        })
        .collect();
    valid.sort_by_key(|(claim, _)| (claim.absent_since.is_some(), claim.first_seen, claim.cluster.clone()));
    valid
}

/// How a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Its resource is the policy.
    Owner,
    /// Its spec is not valid.
    Refused,
    /// Somebody else owns the policy of this name, or it is still on its way out.
    Waiting,
}

/// How a claim stands, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its place.
    pub place: Place,
    /// [`Reason::AsRequested`] when the claim's present generation is in force.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// The generation of this resource that is in force; none when none is.
    pub generation_in_force: Option<u64>,
}

impl Standing {
    /// True when the claim's present generation is in force.
    pub fn is_accepted(&self) -> bool {
        self.reason == Reason::AsRequested
    }
}

/// How a claim stands beside the policy that there is under its name.
pub fn standing(key: &PolicyKey, present: Option<InForce<'_>>, claim: &Claim) -> Standing {
    let holder = present.and_then(|present| match present.owner {
        Owner::Resource(holder) if holder.cluster == claim.cluster && !present.deleting => Some((present, holder)),
        Owner::Resource(_) | Owner::Api => None,
    });
    if let Some((present, holder)) = holder {
        return standing_of_owner(present, holder, claim);
    }
    let (place, reason, message) = match (&claim.verdict, present) {
        (Verdict::Refused(faults), _) => (Place::Refused, Reason::InvalidSpec, faults.clone()),
        (Verdict::Valid(_), None) => {
            let message = format!("policy {key} is about to be made from this resource");
            (Place::Waiting, Reason::InProgress, message)
        }
        (Verdict::Valid(wanted), Some(present)) if present.deleting => {
            let faults = validate_update(present.policy, wanted).err().unwrap_or_default();
            let why = words(&faults);
            let message = format!(
                "policy {key} is being deleted and cannot be carried on with this spec ({why}); a new one is made from this resource \
                 once the old one is gone"
            );
            (Place::Waiting, Reason::Deleting, message)
        }
        (Verdict::Valid(_), Some(present)) => {
            let owner = present.owner;
            let remedy = match owner {
                Owner::Api => format!("delete it there (yardctl delete policy {key}) to hand it over to this resource"),
                Owner::Resource(_) => "delete that resource to hand the policy over to this one".to_owned(),
            };
            let message = format!("policy {key} is owned by {owner}; {remedy}, or use another name");
            (Place::Waiting, Reason::OwnedElsewhere, message)
        }
    };
    Standing { place, reason, message, generation_in_force: None }
}

fn standing_of_owner(present: InForce<'_>, holder: &Holder, claim: &Claim) -> Standing {
    let same = holder.uid == claim.uid;
    let generation_in_force = same.then_some(holder.generation);
    let refused = |faults: &str| {
        let stays = match generation_in_force {
            Some(generation) => format!("generation {generation} stays in force"),
            None => "what the resource before this one asked for stays in force".to_owned(),
        };
        let message = format!("{faults}; {stays}");
        Standing { place: Place::Owner, reason: Reason::InvalidSpec, message, generation_in_force }
    };
    match &claim.verdict {
        Verdict::Refused(faults) => refused(faults),
        Verdict::Valid(wanted) if same && claim.generation == holder.generation && **wanted == *present.policy => {
            Standing {
                place: Place::Owner,
                reason: Reason::AsRequested,
                message: format!("generation {} is stored", claim.generation),
                generation_in_force,
            }
        }
        Verdict::Valid(wanted) => match validate_update(present.policy, wanted) {
            Err(faults) => refused(&words(&faults)),
            Ok(()) => Standing {
                place: Place::Owner,
                reason: Reason::InProgress,
                message: format!("generation {} is being taken", claim.generation),
                generation_in_force,
            },
        },
    }
}

/// Faults in one text for people, of at most 4096 characters.
pub fn words(faults: &[Violation]) -> String {
    const MOST: usize = 4096;
    let text = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// What a complete list says of the resources that are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// These are gone.
    pub gone: BTreeSet<PolicyKey>,
    /// These are missing, and it is not believed: they stay in force until they are seen again, or somebody decides.
    pub held: BTreeSet<PolicyKey>,
}

/// Judges a complete list. `known` says of each resource of the cluster whether it was held before. A list is weak evidence: it is
/// believed only when it is not empty and at most half of what is known is missing. What is held stays held.
///
/// `renewed`: some of what the list shows are other resources of the same names than at the list before, and nobody saw the old
/// ones go. That is how a definition that was deleted and made anew looks, or a restored cluster, while a backup or a GitOps tool
/// still brings resources back: then nothing that is missing is believed gone.
pub fn absence(known: &BTreeMap<PolicyKey, bool>, listed: &BTreeSet<PolicyKey>, renewed: bool) -> Absence {
    let missing = || known.iter().filter(|(key, _)| !listed.contains(*key));
    let fresh: BTreeSet<PolicyKey> = missing().filter(|(_, held)| !**held).map(|(key, _)| key.clone()).collect();
    if renewed || listed.is_empty() || missing().count() * 2 > known.len() {
        Absence { held: fresh, gone: BTreeSet::new() }
    } else {
        Absence { gone: fresh, held: BTreeSet::new() }
    }
}
