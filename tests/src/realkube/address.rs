//! A loopback address that is this process's alone, so that a server which was stopped is sure to get its port back, and two
//! tests never want the same one. All of 127.0.0.0/8 answers on Linux without setting anything up.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;
use rand::Rng;

/// Whoever listens here owns the address. The number is the harness's own choice.
const LOCK_PORT: u16 = 19_117;
/// Some 65,000 addresses for a handful of servers: a second try is rare.
const ATTEMPTS: usize = 1_000;

/// An address; given back when dropped.
#[derive(Debug)]
pub struct Address {
    /// In 127.2.0.0/16, which the sandbox leaves alone.
    pub ip: Ipv4Addr,
    _lock: TcpListener,
}

impl Address {
    /// Takes a free one.
    ///
    /// # Errors
    /// When none is found.
    pub fn take() -> anyhow::Result<Self> {
        let mut random = rand::rng();
        let found = (0..ATTEMPTS).find_map(|_| {
            let ip = Ipv4Addr::new(127, 2, random.random(), random.random_range(1..=254));
            // Listening is the lock: the kernel takes it back when this process ends, however it does.
            TcpListener::bind((ip, LOCK_PORT)).ok().map(|lock| Self { ip, _lock: lock })
        });
        found.context("no free loopback address was found in 127.2.0.0/16")
    }
}
