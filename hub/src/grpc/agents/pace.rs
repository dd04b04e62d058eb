//! How fast one stream of an agent is read. A stream that sends more than an agent ever does is read more slowly, which its sender
//! feels as a full window, so that it costs the hub a fixed share of a core and of memory; one that sends only signs of life, and
//! those without end, is ended. Pure: time comes in.

use std::time::Duration;

/// Bytes that may come at once: a snapshot of 100,000 endpoints of 1 kB, and a little.
const BURST: f64 = 128.0 * 1024.0 * 1024.0;
/// Bytes per second after that: some 4,000 endpoints of 1 kB.
const SUSTAINED: f64 = 4.0 * 1024.0 * 1024.0;
/// What a message costs beside its bytes: the least of one is read as fast as 15,000 a second.
const MESSAGE: usize = 256;
/// Heartbeats that may come at once, after a stream was not read for as many intervals: hours without the store.
const MOST_BEATS: f64 = 4096.0;
/// Heartbeats in one interval: an agent sends one.
const BEATS_PER_INTERVAL: f64 = 10.0;

/// Two buckets that leak. Moments are times since the stream opened.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Duration,
    at: Duration,
    bytes: f64,
    beats: f64,
}

/// A stream of nothing but signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent sends heartbeats without end; one in each interval is enough")]
pub struct Flood;

impl Pace {
    /// Of a stream that has just opened; `interval`: between two heartbeats, above zero.
    pub fn new(interval: Duration) -> Self {
        Self { interval: interval.max(Duration::from_millis(1)), at: Duration::ZERO, bytes: 0.0, beats: 0.0 }
    }

    /// A message of so many bytes came.
    pub fn message(&mut self, bytes: usize, now: Duration) {
        self.leak(now);
        // Messages are bounded to some megabytes, which a float holds exactly.
        self.bytes += (bytes.saturating_add(MESSAGE)) as f64;
    }

    /// A heartbeat came.
    ///
    /// # Errors
    /// `Flood` when there are far too many.
    pub fn heartbeat(&mut self, now: Duration) -> Result<(), Flood> {
        self.message(0, now);
        self.beats += 1.0;
        if self.beats > MOST_BEATS { Err(Flood) } else { Ok(()) }
    }

    /// How long the stream is not to be read; zero: read on.
    pub fn wait(&mut self, now: Duration) -> Duration {
        self.leak(now);
        Duration::from_secs_f64(((self.bytes - BURST) / SUSTAINED).max(0.0))
    }

    fn leak(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        self.bytes = (self.bytes - passed.as_secs_f64() * SUSTAINED).max(0.0);
        let intervals = passed.as_secs_f64() / self.interval.as_secs_f64();
        self.beats = (self.beats - intervals * BEATS_PER_INTERVAL).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_snapshot_of_a_large_cluster_is_read_at_once_and_two_thousand_changes_a_second_for_ever() {
        let mut pace = Pace::new(5 * SECOND);
        for _ in 0..200 {
            pace.message(500 * 1024, Duration::ZERO);
        }
        assert_eq!(pace.wait(Duration::ZERO), Duration::ZERO);
        for second in 1..3600 {
            for _ in 0..4 {
                pace.message(500 * 1024, SECOND * second);
            }
            assert_eq!(pace.wait(SECOND * second), Duration::ZERO, "{second}");
        }
    }

    #[test]
    fn whoever_sends_more_is_read_more_slowly_and_never_ended_for_it() {
        let mut pace = Pace::new(5 * SECOND);
        let (mut now, mut read) = (Duration::ZERO, 0_u64);
        while now < 100 * SECOND {
            let wait = pace.wait(now);
            now += wait.max(Duration::from_micros(100));
            pace.message(4 * 1024 * 1024, now);
            read += 4 * 1024 * 1024;
        }
        let most = BURST + 101.0 * SUSTAINED + 8.0 * 1024.0 * 1024.0;
        assert!((read as f64) < most, "{read}");
        assert!((read as f64) > 90.0 * SUSTAINED, "{read}");
    }

    #[test]
    fn empty_messages_are_not_free() {
        let mut pace = Pace::new(5 * SECOND);
        for _ in 0..1_000_000 {
            pace.message(0, Duration::ZERO);
        }
        assert!(pace.wait(Duration::ZERO) > 10 * SECOND);
    }

    #[test]
    fn heartbeats_of_a_stalled_hour_come_at_once_and_those_without_end_are_ended() {
        let mut pace = Pace::new(5 * SECOND);
        for _ in 0..720 {
            pace.heartbeat(3600 * SECOND).unwrap();
        }
        for i in 1..10_000 {
            pace.heartbeat(3600 * SECOND + i * 5 * SECOND).unwrap();
        }
        let mut pace = Pace::new(5 * SECOND);
        let ended = (0..1_000_000_u32).find(|i| pace.heartbeat(Duration::from_micros(u64::from(*i) * 100)).is_err());
        assert!(ended.is_some_and(|count| count < 5000), "{ended:?}");
    }
}
