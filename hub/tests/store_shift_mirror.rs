//! Shifts and switches in the mirror: always of the same moment as the policies whose weights they moved.

mod store_support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use store_support::{
    EPOCH, NEVER_STALE, apply, database, fence, fresh, key, manifest,
    shifts::{create, drive, flip, halves},
};
use switchyard_core::shift::{Origin, by_cluster, machine::Command};
use switchyard_hub::store::{ApplyError, Fence, Mirror, Retention, ShiftError, Store};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

async fn refresh(mirror: &mut Mirror, store: &Store) -> switchyard_hub::store::Changes {
    mirror.refresh(store, Some(EPOCH), NEVER_STALE).await.unwrap()
}

async fn policies(store: &Store, names: &[&str]) {
    for name in names {
        apply(store, &manifest(name, &[("blue", 100), ("green", 0)])).await;
    }
}

#[tokio::test]
async fn a_mirror_follows_shifts_and_switches_and_says_what_changed() {
    let db = database().await;
    policies(&db.store, &["a", "b"]).await;
    let mut mirror = Mirror::empty();
    refresh(&mut mirror, &db.store).await;
    let made = create(&db.store, &flip(&["a"], "green")).await.unwrap();
    let changes = refresh(&mut mirror, &db.store).await;
    assert_eq!((changes.shifts, changes.switches, changes.policies.len()), (true, false, 0));
    assert_eq!(*mirror.shifts[&made.id], made);
    assert!(refresh(&mut mirror, &db.store).await.is_empty());

    drive(&db.store, fence(&db.store).await, &made.id).await;
    let changes = refresh(&mut mirror, &db.store).await;
    assert!(changes.shifts && changes.policies.contains(&key("a")), "both at once: {changes:?}");
    let covers = ["shop/*".to_owned()];
    db.store.switch_set(&fresh(), &"night".parse().unwrap(), Some(&covers), false, 0).await.unwrap();
    let changes = refresh(&mut mirror, &db.store).await;
    assert_eq!((changes.shifts, changes.switches, mirror.switches.len()), (false, true, 1));
    db.store.switch_delete(&fresh(), &"night".parse().unwrap(), 0).await.unwrap();
    assert!(refresh(&mut mirror, &db.store).await.switches && mirror.switches.is_empty());
    // A change of a policy alone reads no shift again.
    let known = Arc::clone(&mirror.shifts[&made.id]);
    db.store.policy_set_weights(&fresh(), &key("b"), &[("green".to_owned(), 1)], 0).await.unwrap();
    let changes = refresh(&mut mirror, &db.store).await;
    assert!(!changes.shifts && Arc::ptr_eq(&known, &mirror.shifts[&made.id]), "{changes:?}");
}

#[tokio::test]
async fn a_mirror_keeps_active_shifts_and_those_that_ended_last() {
    let db = database().await;
    policies(&db.store, &["a", "b"]).await;
    let active = create(&db.store, &flip(&["b"], "green")).await.unwrap();
    let mut ended = Vec::new();
    let mut mirror = Mirror::empty();
    for i in 0..210 {
        let made = create(&db.store, &flip(&["a"], "green")).await.unwrap();
        db.store.shift_command(&fresh(), &made.id, &Command::Abort).await.unwrap();
        ended.push(made.id);
        if i % 30 == 0 {
            refresh(&mut mirror, &db.store).await;
        }
    }
    refresh(&mut mirror, &db.store).await;
    let mut whole = Mirror::empty();
    refresh(&mut whole, &db.store).await;
    assert_eq!(mirror.shifts, whole.shifts);
    assert_eq!(mirror.shifts.len(), 201);
    assert!(mirror.shifts.contains_key(&active.id));
    assert!(ended[10..].iter().all(|id| mirror.shifts.contains_key(id)));
    let none = Retention { shifts: Duration::ZERO, ..Retention::default() };
    assert_eq!(db.store.purge(&none).await.unwrap().shifts, 210);
    assert!(refresh(&mut mirror, &db.store).await.shifts);
    assert_eq!(mirror.shifts.keys().collect::<Vec<_>>(), [&active.id]);
}

/// Commands, steps and specs in random order.
struct Walk {
    store: Store,
    fence: Fence<'static>,
    rng: StdRng,
}

impl Walk {
    async fn step(&mut self, mirror: &Mirror) {
        let active: Vec<_> = mirror.shifts.values().filter(|shift| shift.is_active()).collect();
        let one = active.choose(&mut self.rng).map(|shift| shift.id.clone());
        let said = [Command::Abort, Command::Promote, Command::Pause, Command::Resume];
        match (self.rng.random_range(0..10), one) {
            (0, Some(id)) => {
                let command = said.choose(&mut self.rng).unwrap();
                match self.store.shift_command(&fresh(), &id, command).await {
                    Ok(_) | Err(ShiftError::Refused { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            (1, _) => {
                let weight = self.rng.random_range(1..100);
                let name = NAMES.choose(&mut self.rng).unwrap();
                apply(&self.store, &manifest(name, &[("blue", 100), ("green", weight)])).await;
            }
            (2, _) => {
                let wanted = [("green".to_owned(), self.rng.random_range(0..100))];
                let name = NAMES.choose(&mut self.rng).unwrap();
                match self.store.policy_set_weights(&fresh(), &key(name), &wanted, 0).await {
                    Ok(_) | Err(ApplyError::ShiftActive { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            (3..=7, Some(id)) => drop(drive(&self.store, self.fence, &id).await),
            _ => self.make().await,
        }
    }

    async fn make(&mut self) {
        let count = self.rng.random_range(1..=3);
        let names: Vec<&str> = NAMES.choose_multiple(&mut self.rng, count).copied().collect();
        let to = ["blue", "green"][self.rng.random_range(0..2)];
        let plan = if self.rng.random_bool(0.5) { flip(&names, to) } else { halves(&names, to) };
        match self.store.shift_create(&fresh(), &plan, &Origin::Call).await {
            Ok(_) | Err(ShiftError::Busy { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// What a shift asks for is what its policies ask for, in every picture that anybody can see.
fn assert_together(mirror: &Mirror, at: &str) -> u32 {
    let mut stepped = 0;
    for shift in mirror.shifts.values().filter(|shift| shift.is_active()) {
        for one in shift.present_moves() {
            let stored = &mirror.policies[&one.policy];
            assert_eq!(stored.record.uid, one.uid, "{at}");
            let asked = by_cluster(&shift.asked(one));
            assert_eq!(by_cluster(&stored.record.requested()), asked, "{at}: {} in {shift:?}", one.policy);
            stepped += u32::from(shift.step.is_some());
        }
    }
    stepped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_never_sees_a_shift_and_the_weights_that_it_wrote_apart() {
    let mut stepped = 0;
    for seed in 0..3 {
        let db = database().await;
        policies(&db.store, &NAMES).await;
        let done = Arc::new(AtomicBool::new(false));
        // One reader follows all the time, while another task writes; between two of its statements anything may be committed.
        let reader = tokio::spawn({
            let (store, done) = (db.store.clone(), Arc::clone(&done));
            async move {
                let (mut mirror, mut stepped) = (Mirror::empty(), 0);
                while !done.load(Ordering::Relaxed) {
                    refresh(&mut mirror, &store).await;
                    stepped += assert_together(&mirror, &format!("seed {seed}, the reader beside"));
                }
                stepped
            }
        });
        let fence = fence(&db.store).await;
        let mut walk = Walk { store: db.store.clone(), fence, rng: StdRng::seed_from_u64(seed) };
        let mut followed = Mirror::empty();
        for round in 0..150 {
            refresh(&mut followed, &db.store).await;
            walk.step(&followed).await;
            let mut whole = Mirror::empty();
            refresh(&mut whole, &db.store).await;
            refresh(&mut followed, &db.store).await;
            let at = format!("seed {seed}, round {round}");
            assert_eq!((&followed.shifts, &followed.policies), (&whole.shifts, &whole.policies), "{at}");
            assert_together(&followed, &at);
        }
        done.store(true, Ordering::Relaxed);
        stepped += reader.await.unwrap();
    }
    assert!(stepped > 0, "no shift was ever seen in a step");
}
