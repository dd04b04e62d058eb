//! Random histories of one or two replicas: crashes anywhere, lost answers, a store that fails or is written by the other replica, a
//! clock that jumps, tokens that come and go, certificates that are revoked. Judged by a hub that remembers everything.

use std::collections::BTreeMap;

use jiff::ToSpan;
use proptest::{collection::vec, prelude::*};

use super::*;

/// Steps without a wait in between; a machine that takes more spins.
const MAX_BUSY: usize = 40;

#[derive(Clone, Debug)]
enum Act {
    /// A replica does what comes next; how the outside answers.
    Step(usize, Luck),
    /// A replica dies, and another begins with what was kept.
    Crash(usize),
    /// A replica dies after the outside has done what was asked, and before it hears of it.
    CrashAfter(usize),
    /// The clock goes on by so many minutes.
    Later(u16),
    /// The agents' clock is wrong by so many minutes from now on.
    Jump(i16),
    /// Another join token is given; the hub made it.
    Token(u8),
    /// The hub revokes every certificate so far.
    Revoke,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Luck {
    Good,
    /// It is done, and nobody hears of it.
    Lost,
    /// It is not done.
    Away,
}

struct World {
    /// The hub's clock, which only goes on.
    hub: Timestamp,
    /// By how much the agents' clock is ahead.
    ahead: i64,
    ways: Ways,
    store: (u64, Kept),
    /// The version that each replica has read.
    read: [u64; 2],
    machines: [Machine; 2],
    token: Option<TokenId>,
    /// The key that each token was first shown with.
    shown: BTreeMap<TokenId, String>,
    serials: u64,
    revoked: u64,
    keys: u64,
    /// When the one that is kept was issued: it may only get newer.
    newest: Option<Timestamp>,
}

impl World {
    fn new(ways: Ways) -> Self {
        let machine = || Machine::new("blue", ways);
        Self {
            hub: "2026-11-21T00:00:00Z".parse().expect("a moment"),
            ahead: 0,
            ways,
            store: (1, Kept::default()),
            read: [0, 0],
            machines: [machine(), machine()],
            token: None,
            shown: BTreeMap::new(),
            serials: 0,
            revoked: 0,
            keys: 0,
            newest: None,
        }
    }

    fn now(&self) -> Timestamp {
        self.hub + self.ahead.minutes()
    }

    fn restart(&mut self, who: usize) {
        self.machines[who] = Machine::new("blue", self.ways);
        self.read[who] = 0;
        let (token, now) = (self.token.clone(), self.now());
        self.machines[who].hear(Heard::Token(token), now, 0.5);
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Step(who, luck) => drop(self.step(*who, *luck)),
            Act::Crash(who) => self.restart(*who),
            Act::CrashAfter(who) => {
                let now = self.now();
                let next = self.machines[*who].next(now);
                let _ = self.answer(*who, next, Luck::Good);
                self.restart(*who);
            }
            Act::Later(minutes) => self.hub += i64::from(*minutes).minutes(),
            Act::Jump(minutes) => self.ahead = i64::from(*minutes),
            Act::Token(letter) => {
                self.token = TokenId::new(&char::from(b'a' + letter % 6).to_string().repeat(12));
                let now = self.now();
                for machine in &mut self.machines {
                    machine.hear(Heard::Token(self.token.clone()), now, 0.5);
                }
            }
            Act::Revoke => self.revoked = self.serials,
        }
    }

    /// True when the replica had something to do.
    fn step(&mut self, who: usize, luck: Luck) -> bool {
        let now = self.now();
        let next = self.machines[who].next(now);
        assert_eq!(next, self.machines[who].next(now), "asked twice it says the same");
        match self.answer(who, next, luck) {
            None => false,
            Some(heard) => {
                self.machines[who].hear(heard, now, 0.5);
                true
            }
        }
    }

    /// What the outside does, and what the replica hears of it.
    fn answer(&mut self, who: usize, next: Next, luck: Luck) -> Option<Heard> {
        Some(match next {
            Next::Wait { until, .. } => {
                assert!(until > self.now(), "a wait for the past spins");
                return None;
            }
            Next::Load if luck == Luck::Good => {
                self.read[who] = self.store.0;
                Heard::Loaded(self.store.1.clone())
            }
            Next::Load => Heard::Unloaded,
            Next::Generate => {
                self.keys += 1;
                Heard::Made(Key::from_pem(&format!("key {}", self.keys)))
            }
            Next::Store(_) if luck == Luck::Away => Heard::Unstored,
            Next::Store(_) if self.read[who] != self.store.0 => Heard::Conflict,
            Next::Store(kept) => {
                let issued = kept.identity.as_ref().map(|identity| identity.certificate.not_before);
                assert!(issued >= self.newest, "what is kept is replaced by something older");
                self.newest = issued;
                self.store = (self.store.0 + 1, kept);
                self.read[who] = self.store.0;
                if luck == Luck::Good { Heard::Stored } else { Heard::Unstored }
            }
            Next::Enroll { key, way } => self.enroll(who, &key, &way, luck),
            Next::Renew { with, .. } if luck != Luck::Away => {
                let serial: u64 = with.certificate.serial.parse().expect("a number");
                if serial <= self.revoked {
                    Heard::Refused("revoked".to_owned())
                } else if luck == Luck::Good {
                    Heard::Certified(self.issue())
                } else {
                    self.issue();
                    Heard::Failed("lost".to_owned())
                }
            }
            Next::Renew { .. } => Heard::Failed("away".to_owned()),
        })
    }

    fn enroll(&mut self, who: usize, key: &Key, way: &Way, luck: Luck) -> Heard {
        let pending = self.store.1.pending.as_ref();
        let is_kept = pending.is_some_and(|pending| &pending.key == key);
        // Else the other replica has gone on since, and this one will learn of it.
        assert!(is_kept || self.read[who] != self.store.0, "a key is kept before the hub hears of it");
        if luck == Luck::Away {
            return Heard::Failed("away".to_owned());
        }
        if let Way::JoinToken(id) = way {
            let first = self.shown.entry(id.clone()).or_insert_with(|| key.reveal().to_owned());
            assert_eq!(first, key.reveal(), "one token with two keys");
        }
        let certificate = self.issue();
        if luck == Luck::Good { Heard::Certified(certificate) } else { Heard::Failed("lost".to_owned()) }
    }

    fn issue(&mut self) -> Certificate {
        self.serials += 1;
        Certificate {
            chain: "pem".into(),
            serial: self.serials.to_string(),
            cluster: Some("blue".to_owned()),
            not_before: self.hub,
            not_after: self.hub + 24.hours(),
            renew_at: self.hub + 16.hours(),
        }
    }

    /// Everything works from now on: a replica does what it can until it waits.
    fn settle(&mut self, who: usize) {
        let busy = (0..MAX_BUSY).take_while(|_| self.step(who, Luck::Good)).count();
        assert!(busy < MAX_BUSY, "replica {who} spins: {:?}", self.machines[who]);
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let luck = prop_oneof![4 => Just(Luck::Good), 1 => Just(Luck::Lost), 1 => Just(Luck::Away)];
    let act = prop_oneof![
        12 => (0..2_usize, luck).prop_map(|(who, luck)| Act::Step(who, luck)),
        1 => (0..2_usize).prop_map(Act::Crash),
        1 => (0..2_usize).prop_map(Act::CrashAfter),
        2 => (0..600_u16).prop_map(Act::Later),
        1 => (-4000..4000_i16).prop_map(Act::Jump),
        1 => any::<u8>().prop_map(Act::Token),
        1 => Just(Act::Revoke),
    ];
    vec(act, 1..250)
}

fn ways() -> impl Strategy<Value = Ways> {
    any::<bool>().prop_map(|account| Ways { join_token: true, account })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// The hub's own assertions: no token with two keys, keys are kept first, what is kept only gets better, nothing spins.
    #[test]
    fn no_history_burns_a_token_for_two_keys_or_loses_a_certificate(ways in ways(), acts in acts()) {
        let mut world = World::new(ways);
        for act in &acts {
            world.act(act);
        }
        // A restart at any moment finds what was kept.
        let kept = world.store.1.identity.clone();
        world.restart(0);
        world.settle(0);
        if let Some(kept) = kept {
            let present = world.machines[0].present().expect("the identity that was kept");
            prop_assert!(present.certificate.not_before >= kept.certificate.not_before);
        }
    }

    #[test]
    fn with_a_way_to_enrol_every_history_ends_with_a_good_certificate(acts in acts()) {
        let mut world = World::new(Ways { join_token: true, account: true });
        for act in &acts {
            world.act(act);
        }
        // An hour in which everything works and the clock is right; the hub tells on streams what it thinks of the certificate.
        world.ahead = 0;
        for _ in 0..60 {
            world.hub += 1.minute();
            let now = world.now();
            for who in 0..2 {
                let serial = world.machines[who].present().map(|identity| identity.certificate.serial.clone());
                if let Some(serial) = serial
                    && serial.parse::<u64>().expect("a number") <= world.revoked
                {
                    world.machines[who].hear(Heard::Doubted(serial), now, 0.5);
                }
                world.settle(who);
            }
        }
        for machine in &world.machines {
            prop_assert!(machine.is_good(world.now()), "{machine:?}");
            let serial = machine.present().map(|identity| identity.certificate.serial.clone()).expect("an identity");
            prop_assert!(serial.parse::<u64>().expect("a number") > world.revoked);
        }
    }
}
