//! Loopback addresses of one sandbox. All of 127.0.0.0/8 answers on Linux without setting anything up, so a sandbox takes a
//! block 127.N.0.0/16 as its VPC: pods, API servers, nodes and load balancers have addresses of their own there.
//! Decides which address is whose; opens no socket but the one that holds the block. Tests are at the end of the file.
//!
//! A real Kubernetes API server refuses endpoints with loopback addresses. Where one takes part, the VPC is called 10.N.0.0/16,
//! and what is at 10.N.x.y for everybody who talks of it is found at 127.N.x.y by those who connect ([`served_at`]).
//!
//! | third octet | what |
//! |---|---|
//! | 0 | the lock, and the API servers at .10 and up |
//! | 1..=223 | pods: cluster i starts at i + 1 and goes on with the next free octet |
//! | 224..=239 | nodes of cluster i at 224 + i |
//! | 240..=255 | load balancers |

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Blocks a sandbox looks for a free one in. Low ones are left to whatever else uses 127.0.x.y and 127.1.x.y.
const BLOCKS: std::ops::RangeInclusive<u8> = 16..=250;
/// Where a block is held: whoever listens here owns it. The number is the sandbox's own choice.
const LOCK_PORT: u16 = 19_116;
/// Most clusters of one sandbox: what the table above has room for.
pub const CLUSTER_LIMIT: usize = 16;
/// Third octets that pods use.
const POD_OCTETS: std::ops::RangeInclusive<u8> = 1..=223;
const NODE_OCTET: u8 = 224;
/// First octet of a VPC that is not called by its loopback addresses.
const PRIVATE: u8 = 10;
/// The VPC CNI keeps an address unused this long after its pod is gone (`IP_COOLDOWN_PERIOD`, default 30 s).
pub const COOL_DOWN: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("no free block 127.N.0.0/16 with N in 16..=250: every one is held by another sandbox; stop one")]
    NoBlock(#[source] io::Error),
    #[error("all pod addresses of the block are in use; delete pods or start a sandbox with fewer")]
    NoAddress,
}

/// The block of this process; free again when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Block {
    second: u8,
    naming: Naming,
    _lock: Arc<TcpListener>,
    octets: Arc<Mutex<Octets>>,
}

/// What the addresses of a VPC are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// As they are: 127.N.x.y.
    Loopback,
    /// 10.N.x.y, as in a real VPC.
    Private,
}

/// The loopback address at which an address of a VPC is served.
pub fn served_at(ip: Ipv4Addr) -> Ipv4Addr {
    let [first, rest @ ..] = ip.octets();
    let [b, c, d] = rest;
    if first == PRIVATE { Ipv4Addr::new(127, b, c, d) } else { ip }
}

/// [`served_at`] for those who connect.
pub fn socket_at(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::from((served_at(*v4.ip()), v4.port())),
        SocketAddr::V6(_) => address,
    }
}

#[derive(Debug)]
struct Octets {
    next: u8,
    /// Released by clusters whose addresses go round in the whole VPC.
    released: Vec<Ipv4Addr>,
}

impl Block {
    /// Takes the first free block for a sandbox of so many clusters.
    pub fn take(clusters: usize, naming: Naming) -> Result<Self, AddressError> {
        // Each process starts its search elsewhere: tests that start together do not all try the same blocks.
        let count = u32::from(*BLOCKS.end() - *BLOCKS.start()) + 1;
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for step in 0..count {
            let offset = (std::process::id() + step) % count;
            let second = *BLOCKS.start() + u8::try_from(offset).unwrap_or(0);
            // Listening is the lock: the kernel gives the address to one process, and takes it back if that one dies.
            match TcpListener::bind((Ipv4Addr::new(127, second, 0, 1), LOCK_PORT)) {
                Ok(lock) => {
                    let next = u8::try_from(clusters + 1).unwrap_or(*POD_OCTETS.end());
                    let octets = Arc::new(Mutex::new(Octets { next, released: Vec::new() }));
                    return Ok(Self { second, naming, _lock: Arc::new(lock), octets });
                }
                Err(error) => last = error,
            }
        }
        Err(AddressError::NoBlock(last))
    }

    /// `127.N.0.0/16`, or what that is called.
    pub fn cidr(&self) -> ipnet::Ipv4Net {
        ipnet::Ipv4Net::new_assert(self.named(0, 0), 16)
    }

    fn named(&self, third: u8, fourth: u8) -> Ipv4Addr {
        let first = match self.naming {
            Naming::Loopback => 127,
            Naming::Private => PRIVATE,
        };
        Ipv4Addr::new(first, self.second, third, fourth)
    }

    /// First address of the load balancers.
    pub fn load_balancers(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second, 240, 1)
    }

    /// Where the API server of a cluster listens. A fixed port, because nothing else lives at this address: a restarted
    /// server is sure to get it back.
    pub fn api_server(&self, cluster: usize) -> SocketAddr {
        let last = 10 + u8::try_from(cluster).unwrap_or(0);
        SocketAddr::from((Ipv4Addr::new(127, self.second, 0, last), 6_443))
    }

    /// Address of a node. Nothing listens there.
    pub fn node(&self, cluster: usize, node: usize) -> Ipv4Addr {
        let octet = NODE_OCTET + u8::try_from(cluster).unwrap_or(0);
        self.named(octet, u8::try_from(node + 1).unwrap_or(u8::MAX))
    }

    /// The pod addresses of a cluster.
    pub fn pods(&self, cluster: usize) -> IpPool {
        let first = u8::try_from(cluster + 1).unwrap_or(1);
        IpPool { block: self.clone(), inner: Mutex::new(Pool { octet: first, host: 0, ..Pool::default() }) }
    }

    fn octets(&self) -> std::sync::MutexGuard<'_, Octets> {
        // Holders push, pop and count: whole even after a panic.
        self.octets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_octet(&self) -> Option<u8> {
        let mut octets = self.octets();
        let next = octets.next;
        POD_OCTETS.contains(&next).then(|| {
            octets.next += 1;
            next
        })
    }
}

/// When the address of a pod that is gone is given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reuse {
    /// Fresh addresses first, then the one that has rested longest, after the cool-down.
    #[default]
    Cooldown,
    /// The address that was released last, at once: the trap in which a stale target reaches another pod.
    Immediate,
    /// The same among all clusters of the VPC that are in this mode: the pod may be another cluster's.
    Vpc,
}

#[derive(Debug, Default)]
struct Pool {
    octet: u8,
    host: u8,
    released: VecDeque<(Ipv4Addr, Instant)>,
    reuse: Reuse,
    used: BTreeMap<Ipv4Addr, String>,
}

/// Pod addresses of one cluster.
#[derive(Debug)]
pub struct IpPool {
    block: Block,
    inner: Mutex<Pool>,
}

impl IpPool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_reuse(&self, reuse: Reuse) {
        self.lock().reuse = reuse;
    }

    /// An address for the pod of this uid.
    pub fn take(&self, uid: &str, now: Instant) -> Result<Ipv4Addr, AddressError> {
        let mut pool = self.lock();
        let immediate = pool.reuse != Reuse::Cooldown;
        let latest = match pool.reuse {
            Reuse::Cooldown => None,
            Reuse::Immediate => pool.released.pop_back().map(|(ip, _)| ip),
            Reuse::Vpc => self.block.octets().released.pop(),
        };
        let rested = |pool: &mut Pool, now: Instant| {
            let &(ip, since) = pool.released.front()?;
            (immediate || now.saturating_duration_since(since) >= COOL_DOWN).then(|| {
                pool.released.pop_front();
                ip
            })
        };
        let found = latest.or_else(|| self.fresh(&mut pool)).or_else(|| rested(&mut pool, now));
        let ip = found.ok_or(AddressError::NoAddress)?;
        pool.used.insert(ip, uid.to_owned());
        Ok(ip)
    }

    fn fresh(&self, pool: &mut Pool) -> Option<Ipv4Addr> {
        if pool.host == 254 {
            pool.octet = self.block.next_octet()?;
            pool.host = 0;
        }
        pool.host += 1;
        Some(self.block.named(pool.octet, pool.host))
    }

    /// Gives an address back, if it still belongs to this uid.
    pub fn release(&self, ip: Ipv4Addr, uid: &str, now: Instant) {
        let mut pool = self.lock();
        if pool.used.get(&ip).is_some_and(|owner| owner == uid) {
            pool.used.remove(&ip);
            match pool.reuse {
                Reuse::Vpc => self.block.octets().released.push(ip),
                Reuse::Cooldown | Reuse::Immediate => pool.released.push_back((ip, now)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sandboxes_never_share_a_block() {
        let one = Block::take(2, Naming::Loopback).unwrap();
        let two = Block::take(2, Naming::Loopback).unwrap();
        assert_ne!(one.cidr(), two.cidr());
        let held = one.second;
        assert!(TcpListener::bind((Ipv4Addr::new(127, held, 0, 1), LOCK_PORT)).is_err());
    }

    #[test]
    fn a_thousand_pods_in_each_of_sixteen_clusters_have_addresses_of_their_own() {
        let block = Block::take(CLUSTER_LIMIT, Naming::Loopback).unwrap();
        let now = Instant::now();
        let mut all = std::collections::BTreeSet::new();
        for cluster in 0..CLUSTER_LIMIT {
            let pool = block.pods(cluster);
            for n in 0..1_000 {
                let ip = pool.take(&n.to_string(), now).unwrap();
                assert!(block.cidr().contains(&ip) && ip.octets()[2] < NODE_OCTET);
                assert!(all.insert(ip), "{ip} was given out twice");
            }
        }
        assert_eq!(all.len(), 16_000);
    }

    #[test]
    fn a_private_vpc_is_served_at_the_loopback_addresses_of_its_block() {
        let block = Block::take(1, Naming::Private).unwrap();
        let ip = block.pods(0).take("a", Instant::now()).unwrap();
        assert!(block.cidr().contains(&ip) && ip.is_private(), "{ip}");
        assert_eq!(served_at(ip), Ipv4Addr::new(127, block.second, 1, 1));
        assert_eq!(served_at(block.node(0, 0)), Ipv4Addr::new(127, block.second, NODE_OCTET, 1));
        assert!(block.load_balancers().is_loopback());
        assert_eq!(served_at(Ipv4Addr::new(127, 20, 1, 1)), Ipv4Addr::new(127, 20, 1, 1));
    }

    #[test]
    fn an_address_rests_before_it_is_used_again_unless_reuse_is_immediate() {
        let block = Block::take(1, Naming::Loopback).unwrap();
        let pool = block.pods(0);
        let now = Instant::now();
        let first = pool.take("a", now).unwrap();
        pool.release(first, "other", now);
        pool.release(first, "a", now);
        assert_ne!(pool.take("b", now).unwrap(), first, "fresh addresses come first");
        pool.set_reuse(Reuse::Immediate);
        assert_eq!(pool.take("c", now).unwrap(), first);
    }

    #[test]
    fn an_address_goes_to_a_pod_of_another_cluster_where_both_reuse_those_of_the_vpc() {
        let block = Block::take(2, Naming::Loopback).unwrap();
        let (blue, green) = (block.pods(0), block.pods(1));
        let now = Instant::now();
        let first = blue.take("a", now).unwrap();
        blue.set_reuse(Reuse::Vpc);
        blue.release(first, "a", now);
        assert_ne!(green.take("b", now).unwrap(), first, "green keeps to its own");
        green.set_reuse(Reuse::Vpc);
        assert_eq!(green.take("c", now).unwrap(), first);
        green.release(first, "c", now);
        assert_eq!(blue.take("d", now).unwrap(), first);
    }
}
