//! What one session holds in memory of what its agent sent and the store does not have yet. Past the bound the stream is not read.
//! Pure; counts only. Tests are at the end of the file.

use std::collections::VecDeque;

use super::state::{Inbound, Refusal};

/// Messages that wait for the store before the stream is no longer read: twice the window of an agent.
const MOST_MESSAGES: usize = 128;
/// Bytes of messages that wait: as many as a large cluster's agent sends in some seconds. In memory they are three to five times that.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of the messages of one snapshot: 100,000 endpoints of 2.5 kB.
const MOST_SNAPSHOT_BYTES: usize = 256 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Load {
    /// Numbers and bytes of messages that wait, oldest first.
    waiting: VecDeque<(u64, usize)>,
    bytes: usize,
    /// Bytes of the snapshot that is being received.
    staged: Option<usize>,
}

impl Load {
    /// A message of so many bytes came; to be told before it is looked at.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] for a snapshot of too many bytes.
    pub fn came(&mut self, seq: u64, inbound: &Inbound, bytes: usize) -> Result<(), Refusal> {
        let held = match (inbound, &mut self.staged) {
            (Inbound::SnapshotBegin { .. }, staged) => {
                *staged = Some(0);
                bytes
            }
            (Inbound::Changes(_), Some(staged)) => {
                *staged = staged.saturating_add(bytes);
                if *staged > MOST_SNAPSHOT_BYTES {
                    return Err(Refusal::TooLarge { what: "bytes", most: MOST_SNAPSHOT_BYTES });
                }
                bytes
            }
            // From here on the whole of it waits for the store.
            (Inbound::SnapshotEnd { .. }, staged) => bytes.saturating_add(staged.take().unwrap_or(0)),
            (Inbound::Changes(_) | Inbound::Live { .. } | Inbound::Sources(_), _) => bytes,
        };
        self.waiting.push_back((seq, held));
        self.bytes = self.bytes.saturating_add(held);
        Ok(())
    }

    /// Everything up to this number is stored.
    pub fn stored(&mut self, seq: u64) {
        while let Some((_, bytes)) = self.waiting.pop_front_if(|(waiting, _)| *waiting <= seq) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// True when another message may be read.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MOST_MESSAGES && self.bytes < MOST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn begin() -> Inbound {
        Inbound::SnapshotBegin { id: "s".to_owned(), version: 1 }
    }

    fn end() -> Inbound {
        Inbound::SnapshotEnd { id: "s".to_owned(), services: 0, endpoints: 0 }
    }

    #[test]
    fn large_messages_fill_it_sooner_than_small_ones_and_what_is_stored_makes_room() {
        let mut load = Load::default();
        for seq in 1..=4 {
            assert!(load.has_room());
            load.came(seq, &Inbound::Changes(Vec::new()), 4 * MIB).unwrap();
        }
        assert!(!load.has_room());
        load.stored(0);
        assert!(!load.has_room());
        load.stored(1);
        assert!(load.has_room());
        load.stored(4);
        for seq in 5..133 {
            assert!(load.has_room(), "{seq}");
            load.came(seq, &Inbound::Live { version: 1 }, 10).unwrap();
        }
        assert!(!load.has_room());
        load.stored(132);
        assert_eq!((load.bytes, load.waiting.len()), (0, 0));
    }

    #[test]
    fn a_snapshot_waits_as_a_whole_and_a_second_one_is_not_read_before_it_is_stored() {
        let mut load = Load::default();
        load.came(1, &begin(), 100).unwrap();
        for seq in 2..12 {
            load.came(seq, &Inbound::Changes(Vec::new()), 4 * MIB).unwrap();
            load.stored(seq);
        }
        assert!(load.has_room());
        load.came(12, &end(), 100).unwrap();
        assert!(!load.has_room(), "40 MiB wait");
        load.stored(12);
        assert!(load.has_room());
    }

    #[test]
    fn a_snapshot_without_end_is_refused() {
        let mut load = Load::default();
        load.came(1, &begin(), 100).unwrap();
        let refused = (2..1000).find_map(|seq| {
            load.stored(seq - 1);
            load.came(seq, &Inbound::Changes(Vec::new()), 4 * MIB).err()
        });
        assert_eq!(refused, Some(Refusal::TooLarge { what: "bytes", most: MOST_SNAPSHOT_BYTES }));
    }
}
