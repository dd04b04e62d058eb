//! What may happen to the world: one value an event, drawn from a seed beforehand and printed one a line, so that a history can be
//! replayed, shortened and read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A member cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Blue,
    Green,
    Dr,
}

impl Place {
    pub const ALL: [Place; 3] = [Place::Blue, Place::Green, Place::Dr];

    pub fn name(self) -> &'static str {
        ["blue", "green", "dr"][self as usize]
    }
}

/// A Service, and the policy over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum App {
    Cart,
    Checkout,
}

impl App {
    pub const ALL: [App; 2] = [App::Cart, App::Checkout];

    pub fn name(self) -> &'static str {
        ["cart", "checkout"][self as usize]
    }

    /// The clusters of its policy.
    pub fn places(self) -> &'static [Place] {
        match self {
            App::Cart => &Place::ALL[..2],
            App::Checkout => &Place::ALL,
        }
    }
}

/// A pod of a Deployment: the same slot is filled again when its pod goes.
pub type Slot = (Place, App, u8);

/// What happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    // Pods.
    /// A pod stops answering; its kubelet notices after a while.
    PodDies(Slot),
    /// It answers again.
    PodRecovers(Slot),
    /// Its readiness goes, while it answers.
    PodUnready(Slot),
    /// Deleted with a grace period; nothing takes its place.
    PodScaledDown(Slot),
    /// Scaled up: a new pod at a new address, if there is none.
    PodScaledUp(Slot),
    /// Deleted at once, and another one at a new address takes its place.
    PodMoves(Slot),
    /// The second pod goes, and a new pod in the first slot takes its address.
    PodTakesAddress(Slot, Slot),
    /// A new pod in the first slot has the address of the second pod, which lives on: pod networks that overlap.
    PodCopiesAddress(Slot, Slot),
    // Clusters.
    /// Half of the nodes are gone.
    NodesLost(Place),
    NodesBack(Place),
    /// Every pod of a cluster is unready and does not answer.
    AllUnready(Place),
    AllReady(Place),
    /// So everywhere.
    EverythingUnready,
    EverythingReady,
    /// The pods of one zone answer nobody, in all clusters.
    ZoneLost(u8),
    ZoneBack(u8),
    /// The load balancer reaches no pod of a cluster; Kubernetes finds nothing wrong.
    Dark(Place),
    Lit(Place),
    // Agents.
    AgentAway(Place),
    AgentBack(Place),
    AgentRestarts(Place),
    /// Reports come so many seconds late.
    AgentLags(Place, u8),
    /// The API server answers with empty lists, as after a restore of an empty etcd.
    ApiEmpty(Place),
    ApiBack(Place),
    // Hubs.
    HubKilled(u8),
    HubStarted(u8),
    /// SIGSTOP, and SIGCONT.
    HubPaused(u8),
    HubResumed(u8),
    /// The machine's clock jumps by so many seconds.
    HubClock(u8, i32),
    // Postgres.
    StoreAway,
    StoreBack,
    /// Every answer takes a second.
    StoreSlow(bool),
    StoreBackup,
    StoreRestored,
    // AWS.
    /// The next answer is lost, after or before the call was carried out.
    AnswerLost {
        applied: bool,
    },
    /// The next call is refused.
    Refused,
    /// For so many seconds.
    Throttled(u8),
    ServerErrors(u8),
    AwsAway(u8),
    /// Calls take effect only shortly before their time is up.
    AwsSlow(u8),
    /// Reads show what was there some seconds before, as far as no call of ours took effect since.
    StaleReads(u8),
    /// Room for one more rule and no more target; or the defaults again.
    QuotaReached(bool),
    /// Another hand, on what is ours.
    ForeignWeights(App, u16),
    ForeignDeletesRule(App),
    ForeignCopiesRule(App),
    ForeignTakesTarget(Slot),
    // Intents.
    /// Weights by call.
    Weights(App, [u16; 3]),
    /// A new spec with these weights; a cluster of `None` is not in it.
    Spec(App, [Option<u16>; 3]),
    Freeze(App, bool),
    Deleted(App),
    Created(App),
    /// Lets clusters return that failover took out.
    Failback(App),
    Cordon(Place),
    /// In steps of so many percent.
    Drain(Place, u8),
    Uncordon(Place),
    /// The loss of a cluster is played for so many seconds.
    Drill(Place, u8),
    /// A shift to these weights in steps of so many percent.
    Shift(App, [u16; 3], u8),
    ShiftAborted(App),
}

/// An event with the ticks that pass before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub wait: u32,
    pub event: Event,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = serde_json::to_string(&self.event).map_err(|_| fmt::Error)?;
        write!(f, "+{} {event}", self.wait)
    }
}

impl Step {
    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(line: &str) -> Result<Self, String> {
        let fault = |why: String| format!("{line:?} is no event ({why}); write +TICKS {{\"event\": ...}}");
        let (wait, event) = line.split_once(' ').ok_or_else(|| fault("no space".to_owned()))?;
        let wait = wait.trim_start_matches('+').parse().map_err(|error| fault(format!("{error}")))?;
        let event = serde_json::from_str(event).map_err(|error| fault(error.to_string()))?;
        Ok(Self { wait, event })
    }
}

/// xorshift64*: a seed means the same history on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            rng.below(2);
        }
        rng
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    fn small(&mut self, n: u8) -> u8 {
        u8::try_from(self.below(u64::from(n))).unwrap()
    }

    fn place(&mut self) -> Place {
        Place::ALL[usize::from(self.small(3))]
    }

    fn app(&mut self) -> App {
        App::ALL[usize::from(self.small(2))]
    }

    fn slot(&mut self) -> Slot {
        (self.place(), self.app(), self.small(super::SLOTS))
    }

    fn weight(&mut self) -> u16 {
        [0, 0, 1, 5, 50, 100, 100, 999][usize::from(self.small(8))]
    }

    fn weights(&mut self) -> [u16; 3] {
        [self.weight(), self.weight(), self.weight()]
    }

    fn spec(&mut self) -> [Option<u16>; 3] {
        let mut weights = self.weights().map(Some);
        if self.below(2) == 0 {
            weights[usize::from(self.small(3))] = None;
        }
        weights
    }
}

/// A time on and off: the end of a trouble follows its beginning somewhere in the history, or only with the calm.
fn any(rng: &mut Rng) -> Event {
    let flip = rng.below(2) == 0;
    match rng.below(67) {
        0..=1 => Event::PodDies(rng.slot()),
        2 => Event::PodRecovers(rng.slot()),
        3 => Event::PodUnready(rng.slot()),
        4..=5 => Event::PodScaledDown(rng.slot()),
        6..=8 => Event::PodScaledUp(rng.slot()),
        9..=10 => Event::PodMoves(rng.slot()),
        11 => Event::PodTakesAddress(rng.slot(), rng.slot()),
        12 => Event::PodCopiesAddress(rng.slot(), rng.slot()),
        13 => Event::NodesLost(rng.place()),
        14 => Event::NodesBack(rng.place()),
        15 => Event::AllUnready(rng.place()),
        16 => Event::AllReady(rng.place()),
        17 => {
            if flip {
                Event::EverythingUnready
            } else {
                Event::EverythingReady
            }
        }
        18 => {
            if flip {
                Event::ZoneLost(rng.small(3))
            } else {
                Event::ZoneBack(rng.small(3))
            }
        }
        19..=20 => Event::Dark(rng.place()),
        21 => Event::Lit(rng.place()),
        22 => Event::AgentAway(rng.place()),
        23 => Event::AgentBack(rng.place()),
        24 => Event::AgentRestarts(rng.place()),
        25 => Event::AgentLags(rng.place(), rng.small(8)),
        26 => Event::ApiEmpty(rng.place()),
        27 => Event::ApiBack(rng.place()),
        28..=29 => Event::HubKilled(rng.small(2)),
        30 => Event::HubStarted(rng.small(2)),
        31..=32 => Event::HubPaused(rng.small(2)),
        33..=34 => Event::HubResumed(rng.small(2)),
        35 => Event::HubClock(rng.small(2), i32::try_from(rng.below(7200)).unwrap() - 3600),
        36 => Event::StoreAway,
        37..=38 => Event::StoreBack,
        39 => Event::StoreSlow(flip),
        40 => Event::StoreBackup,
        41 => Event::StoreRestored,
        42 => Event::AnswerLost { applied: true },
        43 => Event::AnswerLost { applied: flip },
        44 => Event::Refused,
        45 => Event::Throttled(rng.small(15)),
        46 => Event::ServerErrors(rng.small(15)),
        47 => {
            if flip {
                Event::AwsAway(rng.small(15))
            } else {
                Event::AwsSlow(rng.small(15))
            }
        }
        48 => Event::StaleReads(rng.small(8)),
        49 => Event::QuotaReached(flip),
        50 => Event::ForeignWeights(rng.app(), u16::try_from(rng.below(512)).unwrap()),
        51 => {
            if flip {
                Event::ForeignDeletesRule(rng.app())
            } else {
                Event::ForeignCopiesRule(rng.app())
            }
        }
        52 => Event::ForeignTakesTarget(rng.slot()),
        53..=55 => Event::Weights(rng.app(), rng.weights()),
        56 => Event::Spec(rng.app(), rng.spec()),
        57 => Event::Freeze(rng.app(), flip),
        58 => Event::Deleted(rng.app()),
        59 => Event::Created(rng.app()),
        60 => Event::Shift(rng.app(), rng.weights(), [25, 50, 100][usize::from(rng.small(3))]),
        61 => Event::ShiftAborted(rng.app()),
        62 => Event::Failback(rng.app()),
        63 => Event::Cordon(rng.place()),
        64 => Event::Drain(rng.place(), [25, 50, 100][usize::from(rng.small(3))]),
        65 => Event::Uncordon(rng.place()),
        _ => Event::Drill(rng.place(), 10 + rng.small(30)),
    }
}

/// The history that a seed stands for.
pub fn draw(seed: u64, events: usize) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let wait = |rng: &mut Rng| match rng.below(4) {
        // Within one cycle of the engine, so that events hit between its awaits.
        0 | 1 => u32::try_from(rng.below(12)).unwrap(),
        2 => u32::try_from(rng.below(60)).unwrap(),
        _ => u32::try_from(rng.below(200)).unwrap(),
    };
    (0..events).map(|_| Step { wait: wait(&mut rng), event: any(&mut rng) }).collect()
}

/// What ends a trouble that does not end by itself.
fn remedy(event: &Event) -> Option<Event> {
    Some(match *event {
        Event::PodDies(slot) => Event::PodRecovers(slot),
        Event::PodUnready(slot) | Event::PodScaledDown(slot) => Event::PodMoves(slot),
        Event::NodesLost(place) => Event::NodesBack(place),
        Event::AllUnready(place) => Event::AllReady(place),
        Event::EverythingUnready => Event::EverythingReady,
        Event::ZoneLost(zone) => Event::ZoneBack(zone),
        Event::Dark(place) => Event::Lit(place),
        Event::AgentAway(place) => Event::AgentBack(place),
        Event::AgentLags(place, _) => Event::AgentLags(place, 0),
        Event::ApiEmpty(place) => Event::ApiBack(place),
        Event::HubKilled(hub) => Event::HubStarted(hub),
        Event::HubPaused(hub) => Event::HubResumed(hub),
        Event::StoreAway => Event::StoreBack,
        Event::StoreSlow(true) => Event::StoreSlow(false),
        Event::QuotaReached(true) => Event::QuotaReached(false),
        Event::Freeze(app, true) => Event::Freeze(app, false),
        Event::Deleted(app) => Event::Created(app),
        Event::Cordon(place) | Event::Drain(place, _) => Event::Uncordon(place),
        _ => return None,
    })
}

/// One event every minute; most troubles end within the minute, some last until something else ends them. Restores are left out: a
/// person has to look at what comes back before a hub writes again.
pub fn draw_minutes(seed: u64, minutes: usize) -> Vec<Step> {
    const MINUTE: u32 = 300;
    let mut rng = Rng::new(seed);
    let mut steps = Vec::new();
    let mut left = 0;
    for _ in 0..minutes {
        let mut event = any(&mut rng);
        while matches!(event, Event::StoreRestored) {
            event = any(&mut rng);
        }
        let end = remedy(&event).filter(|_| rng.below(10) > 0);
        steps.push(Step { wait: MINUTE - left, event });
        left = 0;
        if let Some(event) = end {
            let wait = 20 + u32::try_from(rng.below(240)).unwrap();
            steps.push(Step { wait, event });
            left = wait;
        }
    }
    steps
}
