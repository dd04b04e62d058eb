//! The database: what is committed is there, and nothing else; one row for the lease, versions on what two may write, and a backup
//! that may come back. The real statements are tested against a real Postgres in `hub/tests/`.

use std::{collections::BTreeMap, sync::Arc};

use switchyard_core::{
    engine::{Stored, Update},
    fleet::{self, ClusterState},
    ids::{ClusterName, Epoch, PolicyKey, PolicyUid, ShiftId, VpcId},
    inventory::{Cluster, EndpointKey, EndpointState, Inventory, Link, ServiceCondition, ServiceKey, ServiceState},
    policy::{PolicyMemory, PolicyRecord},
    shift::{Shift, WeightWrite},
    status::PolicyStatus,
};

use super::{Tick, aws::VPC, members::endpoint, seconds, time};

/// How long a lease lasts without renewal.
pub const LEASE: Tick = seconds(6);
/// Endpoints that are gone are forgotten after this time; a day in the hub.
const FORGOTTEN: Tick = seconds(1800);

/// The lease of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub holder: u32,
    pub epoch: Epoch,
    pub expires: Tick,
}

/// A policy with what the engine said of it.
#[derive(Clone, Debug)]
pub struct StoredPolicy {
    pub record: PolicyRecord,
    pub memory: PolicyMemory,
    pub status: Option<PolicyStatus>,
}

impl StoredPolicy {
    pub fn new(record: PolicyRecord) -> Self {
        Self { record, memory: PolicyMemory::default(), status: None }
    }

    pub fn as_stored(&self) -> Stored<'_> {
        Stored { record: &self.record, memory: &self.memory, status: self.status.as_ref() }
    }
}

/// Everything that is committed. A clone is a snapshot, and cheap.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub policies: Arc<BTreeMap<PolicyKey, StoredPolicy>>,
    pub inventory: Arc<Inventory>,
    pub shifts: Arc<BTreeMap<ShiftId, Shift>>,
    pub fleet: Arc<BTreeMap<ClusterName, ClusterState>>,
    pub lease: Option<Lease>,
    intents: BTreeMap<u64, Epoch>,
    next_intent: u64,
    /// Counts up with each commit that a picture would show.
    pub revision: u64,
}

#[derive(Debug, Default)]
pub struct Store {
    pub content: Content,
    away: bool,
    pub slow: bool,
    backup: Option<Content>,
    /// Times that a backup came back.
    pub restored: u32,
    /// Counts up over restores, too, so that every picture notices.
    revisions: u64,
}

impl Store {
    pub fn is_up(&self) -> bool {
        !self.away
    }

    pub fn set_away(&mut self, away: bool) {
        self.away = away;
    }

    pub fn back_up(&mut self) {
        self.backup = Some(self.content.clone());
    }

    /// True when there was a backup. Sessions are of the database that is gone.
    pub fn restore(&mut self) -> bool {
        let Some(backup) = self.backup.clone() else { return false };
        self.content = backup;
        self.restored += 1;
        self.commit();
        let inventory = Arc::make_mut(&mut self.content.inventory);
        for cluster in inventory.clusters.values_mut() {
            cluster.link = Link::Stale;
        }
        true
    }

    fn commit(&mut self) {
        self.revisions += 1;
        self.content.revision = self.revisions;
    }

    fn inventory(&mut self) -> &mut Inventory {
        self.commit();
        Arc::make_mut(&mut self.content.inventory)
    }

    pub fn policies(&mut self) -> &mut BTreeMap<PolicyKey, StoredPolicy> {
        self.commit();
        Arc::make_mut(&mut self.content.policies)
    }

    // What agents say.

    pub fn link(&self, name: &ClusterName) -> Option<Link> {
        self.content.inventory.clusters.get(name).map(|cluster| cluster.link)
    }

    pub fn set_link(&mut self, name: &ClusterName, link: Link, _now: Tick) {
        if self.link(name).is_some_and(|present| present != link) {
            self.inventory().clusters.get_mut(name).unwrap().link = link;
        }
    }

    pub fn open_session(&mut self, name: &ClusterName, now: Tick) {
        let cluster = Cluster {
            name: name.clone(),
            region: "eu-central-1".into(),
            vpc_id: VpcId::new(VPC).unwrap(),
            link: Link::Syncing,
            session_since: Some(time(now)),
            problems: Vec::new(),
            reports_nodes: true,
        };
        self.inventory().clusters.insert(name.clone(), cluster);
    }

    pub fn resolve_service(&mut self, name: &ClusterName, service: &ServiceKey, _now: Tick) {
        let key = (name.clone(), service.clone());
        if !self.content.inventory.services.contains_key(&key) {
            let condition = ServiceCondition::Resolved;
            let state = ServiceState { condition, message: String::new(), health_check_node_port: None };
            self.inventory().services.insert(key, state);
        }
    }

    pub fn endpoints(&self, name: &ClusterName) -> BTreeMap<EndpointKey, EndpointState> {
        let inventory = &self.content.inventory;
        let of_cluster = inventory.endpoints().filter(|(key, _)| key.cluster == *name);
        of_cluster.map(|(key, endpoint)| (key, endpoint.state)).collect()
    }

    pub fn upsert(&mut self, key: EndpointKey, state: EndpointState, zone: &str, now: Tick) {
        let known = self.content.inventory.endpoints_of(&key.cluster, &key.service);
        let known = known.filter(|(target, uid, _)| *target == key.target && **uid == key.pod_uid);
        let (first_seen, old_zone) =
            known.map(|(_, _, old)| (old.first_seen, old.zone.clone())).next().unwrap_or((time(now), String::new()));
        let zone = if zone.is_empty() { &old_zone } else { zone };
        let new = endpoint(state, zone, first_seen, time(now));
        self.inventory().upsert(key, new);
    }

    pub fn purge(&mut self, now: Tick) {
        let old = time(now.saturating_sub(FORGOTTEN));
        let gone = self
            .content
            .inventory
            .endpoints()
            .filter(|(_, endpoint)| matches!(endpoint.state, EndpointState::Gone(_)) && endpoint.updated_at < old);
        let gone: Vec<EndpointKey> = gone.map(|(key, _)| key).collect();
        if !gone.is_empty() {
            let inventory = self.inventory();
            for key in gone {
                inventory.forget(&key);
            }
        }
        let over: Vec<ShiftId> =
            self.content.shifts.iter().filter(|(_, shift)| !shift.is_active()).map(|(id, _)| id.clone()).collect();
        if over.len() > 8 {
            let shifts = Arc::make_mut(&mut self.content.shifts);
            over.iter().for_each(|id| drop(shifts.remove(id)));
            self.commit();
        }
    }

    // What the engine writes.

    /// Takes or renews the lease. `Ok(None)`: somebody else holds it.
    pub fn lease_acquire(&mut self, holder: u32, now: Tick) -> Result<Option<Lease>, Denied> {
        self.reach()?;
        let lease = match self.content.lease {
            None => Lease { holder, epoch: Epoch(1), expires: now + LEASE },
            Some(row) if row.holder == holder => Lease { expires: now + LEASE, ..row },
            Some(row) if row.expires <= now => Lease { holder, epoch: row.epoch.next(), expires: now + LEASE },
            Some(_) => return Ok(None),
        };
        self.content.lease = Some(lease);
        Ok(Some(lease))
    }

    pub fn lease_raise(&mut self, holder: u32, to: Epoch, now: Tick) -> Result<(), Denied> {
        self.reach()?;
        if let Some(row) = self.content.lease.as_mut().filter(|row| row.holder == holder && row.expires > now) {
            row.epoch = row.epoch.max(to);
        }
        Ok(())
    }

    fn reach(&self) -> Result<(), Denied> {
        if self.away { Err(Denied) } else { Ok(()) }
    }

    /// True while this holder has the lease under this epoch: every write of an engine is fenced so.
    pub fn holds(&self, holder: u32, epoch: Epoch, now: Tick) -> bool {
        self.content.lease.is_some_and(|row| row.holder == holder && row.epoch == epoch && row.expires > now)
    }

    fn fence(&self, (holder, epoch): (u32, Epoch), now: Tick) -> Result<(), Denied> {
        self.reach()?;
        if self.holds(holder, epoch, now) { Ok(()) } else { Err(Denied) }
    }

    pub fn intent_open(&mut self, fence: (u32, Epoch), now: Tick) -> Result<u64, Denied> {
        self.fence(fence, now)?;
        self.content.next_intent += 1;
        self.content.intents.insert(self.content.next_intent, fence.1);
        Ok(self.content.next_intent)
    }

    pub fn intent_close(&mut self, id: u64) {
        if !self.away {
            self.content.intents.remove(&id);
        }
    }

    /// True when an intent of this epoch is open.
    pub fn has_intent(&self, id: u64) -> bool {
        self.content.intents.contains_key(&id)
    }

    pub fn save(&mut self, fence: (u32, Epoch), updates: &[Update], now: Tick) -> Result<(), Denied> {
        self.fence(fence, now)?;
        let policies = self.policies();
        for Update { uid, status, memory } in updates {
            if let Some(stored) = policies.values_mut().find(|stored| stored.record.uid == *uid) {
                stored.status = Some(status.clone());
                stored.memory = memory.clone();
            }
        }
        Ok(())
    }

    pub fn forget(&mut self, fence: (u32, Epoch), key: &PolicyKey, uid: &PolicyUid, now: Tick) -> Result<(), Denied> {
        self.fence(fence, now)?;
        let present = self.content.policies.get(key);
        if present.is_some_and(|stored| stored.record.uid == *uid && stored.record.deleting_since.is_some()) {
            self.policies().remove(key);
        }
        Ok(())
    }

    /// Saves a shift that nobody moved meanwhile, with the weights. False: lost.
    pub fn save_shift(
        &mut self,
        fence: (u32, Epoch),
        before: u64,
        shift: &Shift,
        writes: &[WeightWrite],
        now: Tick,
    ) -> Result<bool, Denied> {
        self.fence(fence, now)?;
        Ok(self.shift(before, shift, writes))
    }

    /// Saves what became of an operation on a cluster, if nobody asked for another meanwhile. False: lost.
    pub fn save_cluster(&mut self, fence: (u32, Epoch), state: &ClusterState, now: Tick) -> Result<bool, Denied> {
        self.fence(fence, now)?;
        if self.content.fleet.get(&state.cluster).is_none_or(|present| present.version != state.version) {
            return Ok(false);
        }
        self.put_cluster(state);
        Ok(true)
    }

    fn put_cluster(&mut self, state: &ClusterState) {
        let state = ClusterState { version: state.version + 1, ..state.clone() };
        Arc::make_mut(&mut self.content.fleet).insert(state.cluster.clone(), state);
        self.commit();
    }

    /// An operator says something of a whole cluster.
    pub fn command_cluster(&mut self, name: &ClusterName, command: &fleet::machine::Command, now: Tick) {
        let carries = |stored: &&StoredPolicy| {
            stored.record.requested().iter().any(|(of, weight)| of == name && weight.carries())
        };
        let carried: Vec<PolicyKey> =
            self.content.policies.values().filter(carries).map(|stored| stored.record.policy.key.clone()).collect();
        let present = self.content.fleet.get(name).cloned();
        if let Ok(state) = fleet::machine::command(name, present, command, &carried, time(now)) {
            self.put_cluster(&state);
        }
    }

    /// As callers and the engine do it alike, without a fence.
    pub fn shift(&mut self, before: u64, shift: &Shift, writes: &[WeightWrite]) -> bool {
        if self.content.shifts.get(&shift.id).is_some_and(|present| present.version != before) {
            return false;
        }
        let suits = |write: &WeightWrite| {
            let present = self.content.policies.get(&write.policy);
            present.is_some_and(|stored| {
                let names = stored.record.policy.clusters.iter().map(|(name, _)| name);
                stored.record.uid == write.uid
                    && stored.record.deleting_since.is_none()
                    && names.eq(write.weights.iter().map(|(name, _)| name))
            })
        };
        if !writes.iter().all(suits) {
            return false;
        }
        for write in writes {
            let stored = self.policies().get_mut(&write.policy).unwrap();
            let of_spec = stored.record.policy.clusters == write.weights;
            stored.record.weight_override = (!of_spec).then(|| write.weights.iter().cloned().collect());
            stored.record.version += 1;
        }
        let stored = Shift { version: before + 1, ..shift.clone() };
        Arc::make_mut(&mut self.content.shifts).insert(shift.id.clone(), stored);
        self.commit();
        true
    }
}

/// The database does not answer, or refuses a writer without the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;
