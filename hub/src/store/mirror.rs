//! The store in memory: what plans, lists and watches read. It follows the store step by step, and costs two small statements
//! when nothing moved. It decides nothing but how an agent stands ([`Link`]): by its heartbeat on the database's clock, and by
//! whether what is stored is complete in the present epoch. Reading is apart from applying, so that nobody waits for the
//! database with the mirror locked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use switchyard_core::{
    fleet::ClusterState,
    ids::{ClusterName, Epoch, PolicyKey, PolicyUid, ShiftId},
    inventory::{EndpointKey, Inventory},
    shift::Shift,
};
use uuid::Uuid;

use super::{
    Store,
    error::StoreError,
    fleet_rows::FleetPart,
    mirror_fetch::{ClusterPart, Fetched, Rows, Seen},
    mirror_intents::{Intents, PolicyPart, ShiftPart},
    policy_rows::StoredPolicy,
    source_rows::{ClaimPart, Claims},
    switches::StoredSwitch,
};

#[cfg(doc)]
use switchyard_core::inventory::Link;

/// What is known of a cluster beside what core needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// The agent's version.
    pub agent_version: String,
    /// When the agent was last heard of, by the database's clock.
    pub last_seen: Option<Timestamp>,
    /// Its session, while it has one.
    pub session_id: Option<Uuid>,
    /// The hub replica that holds the session.
    pub hub_instance: Option<Uuid>,
    /// The epoch in which what is stored was last said to be complete.
    pub complete_in_epoch: Option<Epoch>,
    /// Why its agent cannot see policies now; none: it can, or the cluster is no source of policies.
    pub policies_failing: Option<String>,
}

/// What a refresh changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Policies that are new, changed (status included) or gone.
    pub policies: BTreeSet<PolicyKey>,
    /// Clusters whose Services, endpoints, link, problems or existence changed; the time of the last heartbeat does not count.
    pub clusters: BTreeSet<ClusterName>,
    /// True: resources that ask for policies came, changed or went.
    pub claims: bool,
    /// True: shifts came, changed or went.
    pub shifts: bool,
    /// True: gating switches came, changed or went.
    pub switches: bool,
    /// True: operators want something else of a cluster, or an operation on one came further.
    pub fleet: bool,
}

impl Changes {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        let Self { policies, clusters, claims, shifts, switches, fleet } = self;
        policies.is_empty() && clusters.is_empty() && !claims && !shifts && !switches && !fleet
    }
}

/// The store in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Policies by namespace and name.
    pub policies: BTreeMap<PolicyKey, Arc<StoredPolicy>>,
    /// Shifts that are active, and the 200 that ended last. Always of the same moment as the policies.
    pub shifts: BTreeMap<ShiftId, Arc<Shift>>,
    /// Gating switches by name, of the same moment.
    pub switches: Vec<StoredSwitch>,
    /// What operators want of clusters, of the same moment; clusters without an entry are active.
    pub fleet: BTreeMap<ClusterName, Arc<ClusterState>>,
    /// Resources that ask for policies, by cluster.
    pub claims: Claims,
    /// Clusters, Services and endpoints.
    pub inventory: Inventory,
    /// More about the clusters.
    pub clusters: BTreeMap<ClusterName, ClusterInfo>,
    /// When the last refresh began to read, by the database's clock; the epoch's beginning before the first.
    pub refreshed_at: Timestamp,
    /// Policies of the last change that this version cannot read.
    pub unreadable_policies: usize,
    seen: Seen,
}

impl Default for Mirror {
    fn default() -> Self {
        Self::empty()
    }
}

impl Mirror {
    /// Knows nothing yet.
    pub fn empty() -> Self {
        Self {
            policies: BTreeMap::new(),
            shifts: BTreeMap::new(),
            switches: Vec::new(),
            fleet: BTreeMap::new(),
            claims: Claims::new(),
            inventory: Inventory::default(),
            clusters: BTreeMap::new(),
            refreshed_at: Timestamp::UNIX_EPOCH,
            unreadable_policies: 0,
            seen: Seen::default(),
        }
    }

    /// Catches up with the store. After an error nothing has changed.
    ///
    /// `epoch` is the hub's present one; without one no agent counts as connected. An agent is stale when it was not heard of
    /// for `stale_after`.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn refresh(
        &mut self,
        store: &Store,
        epoch: Option<Epoch>,
        stale_after: Duration,
    ) -> Result<Changes, StoreError> {
        let fetched = self.fetch(store, epoch, stale_after).await?;
        Ok(self.apply(fetched))
    }

    /// The reading half of [`Mirror::refresh`]; the future borrows nothing of the mirror.
    pub fn fetch(
        &self,
        store: &Store,
        epoch: Option<Epoch>,
        stale_after: Duration,
    ) -> impl Future<Output = Result<Fetched, StoreError>> + Send + use<> {
        let (store, seen) = (store.clone(), self.seen.clone());
        async move { store.mirror_read(&seen, epoch, stale_after).await }
    }

    /// The other half: takes in what [`Mirror::fetch`] of the same mirror read, in the order of the fetches.
    pub fn apply(&mut self, fetched: Fetched) -> Changes {
        let mut changes = Changes::default();
        self.refreshed_at = fetched.refreshed_at;
        let Intents { policies, shifts, fleet } = fetched.intents;
        if let Some(part) = policies {
            self.apply_policies(part, &mut changes);
        }
        if let Some(part) = shifts {
            self.apply_shifts(part, &mut changes);
        }
        if let Some(part) = fleet {
            changes.fleet = self.apply_fleet(part);
        }
        if let Some(part) = fetched.claims {
            changes.claims = self.apply_claims(part);
        }
        let present: BTreeSet<ClusterName> = fetched.clusters.iter().map(|part| part.cluster.name.clone()).collect();
        for part in fetched.clusters {
            self.apply_cluster(part, &mut changes);
        }
        let vanished: Vec<ClusterName> =
            self.clusters.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for name in vanished {
            self.drop_rows(&name);
            self.inventory.clusters.remove(&name);
            self.clusters.remove(&name);
            self.seen.clusters.remove(&name);
            changes.clusters.insert(name);
        }
        changes
    }

    fn apply_policies(&mut self, part: PolicyPart, changes: &mut Changes) {
        for stored in part.changed {
            let key = stored.record.policy.key.clone();
            if self.policies.get(&key).is_none_or(|known| **known != stored) {
                changes.policies.insert(key.clone());
                self.policies.insert(key, Arc::new(stored));
            }
        }
        let present: BTreeSet<&PolicyUid> = part.present.iter().collect();
        self.policies.retain(|key, stored| {
            let stays = present.contains(&stored.record.uid);
            if !stays {
                changes.policies.insert(key.clone());
            }
            stays
        });
        self.unreadable_policies = part.unreadable;
        self.seen.policies = Some(part.head);
    }

    fn apply_shifts(&mut self, part: ShiftPart, changes: &mut Changes) {
        for shift in part.changed {
            if self.shifts.get(&shift.id).is_none_or(|known| **known != shift) {
                changes.shifts = true;
                self.shifts.insert(shift.id.clone(), Arc::new(shift));
            }
        }
        let before = self.shifts.len();
        self.shifts.retain(|id, _| part.present.contains(id));
        changes.shifts |= self.shifts.len() != before;
        changes.switches = self.switches != part.switches;
        self.switches = part.switches;
        self.seen.shifts = Some(part.head);
    }

    fn apply_fleet(&mut self, part: FleetPart) -> bool {
        let known = |state: ClusterState| {
            let before = self.fleet.get(&state.cluster).filter(|before| ***before == state);
            (state.cluster.clone(), before.cloned().unwrap_or_else(|| Arc::new(state)))
        };
        let fleet: BTreeMap<ClusterName, Arc<ClusterState>> = part.states.into_iter().map(known).collect();
        let changed = self.fleet != fleet;
        self.fleet = fleet;
        self.seen.fleet = Some(part.head);
        changed
    }

    fn apply_claims(&mut self, part: ClaimPart) -> bool {
        let mut changed = false;
        for stored in part.changed {
            let of_cluster = self.claims.entry(stored.claim.cluster.clone()).or_default();
            if of_cluster.get(&stored.key).is_none_or(|known| **known != stored) {
                of_cluster.insert(stored.key.clone(), Arc::new(stored));
                changed = true;
            }
        }
        for (cluster, claims) in &mut self.claims {
            let before = claims.len();
            claims.retain(|key, _| part.present.contains(&(cluster.clone(), key.clone())));
            changed |= claims.len() != before;
        }
        self.claims.retain(|_, claims| !claims.is_empty());
        self.seen.claims = Some(part.head);
        changed
    }

    fn apply_cluster(&mut self, part: ClusterPart, changes: &mut Changes) {
        let name = part.cluster.name.clone();
        if let Some(rows) = part.rows
            && self.apply_rows(&name, rows)
        {
            changes.clusters.insert(name.clone());
        }
        self.seen.clusters.insert(name.clone(), part.rev);
        self.clusters.insert(name.clone(), part.info);
        if self.inventory.clusters.get(&name) != Some(&part.cluster) {
            self.inventory.clusters.insert(name.clone(), part.cluster);
            changes.clusters.insert(name);
        }
    }

    fn apply_rows(&mut self, name: &ClusterName, rows: Rows) -> bool {
        let changed = rows.whole || !(rows.services.is_empty() && rows.endpoints.is_empty());
        if rows.whole {
            self.drop_rows(name);
        }
        for (key, state) in rows.services {
            let place = (name.clone(), key);
            match state {
                Some(state) => drop(self.inventory.services.insert(place, state)),
                None => drop(self.inventory.services.remove(&place)),
            }
        }
        for (key, endpoint) in rows.endpoints {
            match endpoint {
                Some(endpoint) => self.inventory.upsert(key, endpoint),
                None => self.inventory.forget(&key),
            }
        }
        changed
    }

    fn drop_rows(&mut self, name: &ClusterName) {
        self.inventory.services.retain(|(cluster, _), _| cluster != name);
        let of_cluster = |(key, _): (EndpointKey, _)| (key.cluster == *name).then_some(key);
        let keys: Vec<EndpointKey> = self.inventory.endpoints().filter_map(of_cluster).collect();
        for key in keys {
            self.inventory.forget(&key);
        }
    }
}
