//! How many connections and streams there may be: in all, and from one source, so that nobody alone takes the room of all others.
//! Counts and nothing else; what is counted here is what memory is used for before anyone has said who he is.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::source_of;

/// Streams from one source for each connection that it may have: an agent has four streams on one connection, a person one.
const STREAMS_PER_CONNECTION: usize = 4;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The hub has as many connections as it may have.
    All,
    /// This source has as many as it may have.
    Source,
}

/// The room of a hub, shared by its ports. Clones are the same room.
#[derive(Clone, Debug)]
pub struct Rooms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    most_of_source: usize,
    source_of: fn(IpAddr) -> IpAddr,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    /// Only sources that have a connection, so it is bounded by their number.
    sources: HashMap<IpAddr, Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    streams: usize,
}

impl Rooms {
    /// Room for so many connections in all, and from one source address (IPv6: network of 64 bits).
    pub fn new(most: usize, most_of_source: usize) -> Self {
        Self(Arc::new(Inner { most, most_of_source, source_of, taken: Mutex::default() }))
    }

    /// As [`Rooms::new`], with every address counted for itself also with IPv6: inside a cluster all pods of a node may have addresses of one
    /// network.
    pub fn by_address(most: usize, most_of_source: usize) -> Self {
        let source_of = |address: IpAddr| address.to_canonical();
        Self(Arc::new(Inner { most, most_of_source, source_of, taken: Mutex::default() }))
    }

    /// A place for a connection, until it is dropped.
    ///
    /// # Errors
    /// [`Full`].
    pub fn enter(&self, address: IpAddr) -> Result<Arc<Place>, Full> {
        let source = (self.0.source_of)(address);
        let taken = self.0.taken();
        if taken.connections >= self.0.most {
            return Err(Full::All);
        }
        if taken.sources.get(&source).is_some_and(|counts| counts.connections >= self.0.most_of_source) {
            return Err(Full::Source);
        }
        Ok(self.0.seat(taken, source))
    }

    /// A place for a connection in the room of another one that has just been ended, which gives its own back within moments.
    pub(super) fn follow(&self, address: IpAddr) -> Arc<Place> {
        self.0.seat(self.0.taken(), (self.0.source_of)(address))
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.0.taken().connections
    }
}

impl Inner {
    fn seat(self: &Arc<Self>, mut taken: MutexGuard<'_, Taken>, source: IpAddr) -> Arc<Place> {
        taken.connections += 1;
        taken.sources.entry(source).or_default().connections += 1;
        Arc::new(Place { inner: Arc::clone(self), source })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Numbers are right after every statement, whatever panicked.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection.
#[derive(Debug)]
pub struct Place {
    inner: Arc<Inner>,
    source: IpAddr,
}

impl Place {
    /// Streams that the connections of one source may have open together.
    pub fn most_streams(&self) -> usize {
        self.inner.most_of_source * STREAMS_PER_CONNECTION
    }

    /// A place for a stream, until it is dropped; none when the source has as many as it may have.
    pub fn stream(self: &Arc<Self>) -> Option<StreamPlace> {
        let mut taken = self.inner.taken();
        let counts = taken.sources.get_mut(&self.source)?;
        if counts.streams >= self.most_streams() {
            return None;
        }
        counts.streams += 1;
        Some(StreamPlace(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.inner.taken();
        taken.connections -= 1;
        if let Some(counts) = taken.sources.get_mut(&self.source) {
            counts.connections -= 1;
            // Streams hold their connection's place, so none is left when the last connection goes.
            if counts.connections == 0 {
                taken.sources.remove(&self.source);
            }
        }
    }
}

/// The place of a stream.
#[derive(Debug)]
pub struct StreamPlace(Arc<Place>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        if let Some(counts) = self.0.inner.taken().sources.get_mut(&self.0.source) {
            counts.streams -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ten_thousand_connections_from_one_source_leave_room_for_others_and_no_memory_behind() {
        let rooms = Rooms::new(300, 256);
        let places: Vec<_> = (0..10_000).filter_map(|_| rooms.enter(ip("192.0.2.1")).ok()).collect();
        assert_eq!(places.len(), 256);
        assert_eq!(rooms.enter(ip("192.0.2.1")).unwrap_err(), Full::Source);
        let others: Vec<_> = (0..100).map(|n| rooms.enter(ip(&format!("192.0.3.{n}")))).collect();
        assert_eq!(others.iter().filter(|place| place.is_ok()).count(), 44);
        assert_eq!(others[99].as_ref().unwrap_err(), &Full::All);
        drop((places, others));
        assert_eq!(rooms.connections(), 0);
        assert!(rooms.0.taken().sources.is_empty());
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one_source() {
        let rooms = Rooms::new(10, 1);
        let _place = rooms.enter(ip("2001:db8::1")).unwrap();
        assert_eq!(rooms.enter(ip("2001:db8::ffff:1")).unwrap_err(), Full::Source);
        assert!(rooms.enter(ip("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn by_address_each_of_them_counts_for_itself() {
        let rooms = Rooms::by_address(10, 1);
        let _place = rooms.enter(ip("2001:db8::1")).unwrap();
        assert_eq!(rooms.enter(ip("2001:db8::1")).unwrap_err(), Full::Source);
        assert!(rooms.enter(ip("2001:db8::2")).is_ok());
        let over = rooms.follow(ip("2001:db8::1"));
        assert_eq!(rooms.connections(), 2);
        drop(over);
        assert_eq!(rooms.connections(), 1);
    }

    #[test]
    fn streams_are_counted_over_all_connections_of_a_source_and_given_back() {
        let rooms = Rooms::new(10, 2);
        let (first, second) = (rooms.enter(ip("192.0.2.1")).unwrap(), rooms.enter(ip("192.0.2.1")).unwrap());
        let mut streams: Vec<_> = (0..4).map(|_| first.stream().unwrap()).collect();
        streams.extend((0..4).map(|_| second.stream().unwrap()));
        assert!(first.stream().is_none());
        assert!(rooms.enter(ip("192.0.2.2")).unwrap().stream().is_some());
        streams.pop();
        assert!(first.stream().is_some());
        // A stream that outlives its connection's task holds the place.
        drop((first, second));
        assert_eq!(rooms.connections(), 2);
        drop(streams);
        assert_eq!(rooms.connections(), 0);
    }
}
