//! Connections of a port that nobody has to prove himself at, by how long they have asked nothing: when there is no room left, the one
//! that was silent the longest goes, so that no number of silent connections keeps a probe of the kubelet out.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// All of a port. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats(Arc<Mutex<Silent>>);

#[derive(Debug, Default)]
struct Silent {
    next: u64,
    /// The one that has been silent the longest first.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

impl Silent {
    fn add(&mut self, address: IpAddr, token: CancellationToken) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, (address, token));
        self.next
    }
}

impl Seats {
    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that has asked nothing yet.
    pub fn sit(&self, address: IpAddr) -> Seat {
        let (address, token) = (address.to_canonical(), CancellationToken::new());
        let number = Mutex::new(Some(self.silent().add(address, token.clone())));
        Seat { seats: self.clone(), address, token, number }
    }

    /// Ends the connection that has been silent the longest: of this address, or of all. False when none is silent.
    pub fn free_one(&self, of: Option<IpAddr>) -> bool {
        let of = of.map(|address| address.to_canonical());
        let mut silent = self.silent();
        let found = silent.waiting.iter().find(|(_, (address, _))| of.is_none_or(|of| of == *address));
        let Some(number) = found.map(|(number, _)| *number) else { return false };
        if let Some((_, token)) = silent.waiting.remove(&number) {
            token.cancel();
        }
        true
    }
}

/// The seat of a connection.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    address: IpAddr,
    token: CancellationToken,
    /// None while a request is answered.
    number: Mutex<Option<u64>>,
}

impl Seat {
    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        if let Some(number) = self.number().take() {
            self.seats.silent().waiting.remove(&number);
        }
    }

    /// A request is answered, until this is dropped.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.leave();
        Busy(Arc::clone(self))
    }

    /// Ends when the seat was given to somebody else.
    pub async fn lost(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

/// While a request is answered nobody takes the seat.
#[derive(Debug)]
pub(super) struct Busy(Arc<Seat>);

impl Drop for Busy {
    fn drop(&mut self) {
        let seat = &self.0;
        let number = seat.seats.silent().add(seat.address, seat.token.clone());
        *seat.number() = Some(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_goes_first_and_never_one_that_is_answered() {
        let seats = Seats::default();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let sit = |text: &str| Arc::new(seats.sit(ip(text)));
        let (first, second, third) = (sit("192.0.2.1"), sit("192.0.2.2"), sit("::ffff:192.0.2.1"));
        let busy = first.busy();
        assert!(seats.free_one(Some(ip("192.0.2.1"))) && third.token.is_cancelled());
        assert!(!seats.free_one(Some(ip("192.0.2.1"))), "the other one of this address is answered");
        drop(busy);
        assert!(seats.free_one(None) && second.token.is_cancelled() && !first.token.is_cancelled());
        drop((second, third));
        drop(first);
        assert!(seats.0.lock().unwrap().waiting.is_empty() && !seats.free_one(None));
    }
}
