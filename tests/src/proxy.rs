//! A network between two programs that can be cut, silenced and made slow. It passes bytes on and understands nothing of them.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// Bytes that are passed on at once.
const PIECE: usize = 4_096;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing is in the way.
    Clear,
    /// Each piece of an answer takes so long: 20 ms are 200 kB a second.
    Slow(Duration),
    /// Connections end, and new ones are closed at once.
    Cut,
    /// Connections stay, new ones are taken, and nothing passes. What was sent arrives when the weather changes, as TCP's
    /// repetitions do after a partition.
    Silent,
}

/// What is behind a proxy.
#[derive(Clone, Debug)]
pub enum Server {
    /// A port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl From<SocketAddr> for Server {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// What every connection looks at.
#[derive(Clone, Copy, Debug)]
struct Sky {
    weather: Weather,
    /// Connections of an earlier one are stranded.
    generation: u64,
}

/// All that was sent to the server in a silence.
type Withheld = Arc<Mutex<Vec<u8>>>;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    sky: Arc<watch::Sender<Sky>>,
    withheld: Withheld,
    stop: CancellationToken,
}

impl Proxy {
    /// Starts one in front of a server.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(server: impl Into<Server>) -> io::Result<Self> {
        let server = server.into();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let clear = Sky { weather: Weather::Clear, generation: 0 };
        let (sky, stop) = (Arc::new(watch::Sender::new(clear)), CancellationToken::new());
        let withheld = Withheld::default();
        let (seen, stopped, held) = (sky.clone(), stop.clone(), withheld.clone());
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            // The address is this proxy's alone: accepting fails only for a connection that is gone already.
            loop {
                if let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(connected(client, server.clone(), seen.subscribe(), held.clone()));
                }
            }
        }));
        Ok(Self { address, sky, withheld, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes it, for connections that are there too.
    pub fn set(&self, weather: Weather) {
        self.sky.send_modify(|sky| sky.weather = weather);
    }

    /// Was this sent to the server in a silence?
    pub fn withheld(&self, text: &str) -> bool {
        let held = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        held.windows(text.len()).any(|piece| piece == text.as_bytes())
    }

    /// The connections of now never pass anything again, and nobody is told: what a firewall does that lost its table.
    pub fn strand(&self) {
        self.sky.send_modify(|sky| sky.generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Weather::Cut);
        self.stop.cancel();
    }
}

async fn connected(client: TcpStream, server: Server, sky: watch::Receiver<Sky>, withheld: Withheld) {
    let generation = sky.borrow().generation;
    let road = Road { generation, sky, withheld };
    if !road.is_cut() {
        match server {
            Server::Tcp(address) => {
                if let Ok(upstream) = TcpStream::connect(address).await {
                    road.pass(client, upstream).await;
                }
            }
            Server::Unix(path) => {
                if let Ok(upstream) = UnixStream::connect(path).await {
                    road.pass(client, upstream).await;
                }
            }
        }
    }
}

/// The network as one connection has it.
#[derive(Clone, Debug)]
struct Road {
    generation: u64,
    sky: watch::Receiver<Sky>,
    withheld: Withheld,
}

impl Road {
    fn is_cut(&self) -> bool {
        self.sky.borrow().weather == Weather::Cut
    }

    async fn pass<S: AsyncRead + AsyncWrite>(self, client: TcpStream, upstream: S) {
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = tokio::io::split(upstream);
        let mut sky = self.sky.clone();
        let asked = self.clone().piecewise(from_client, to_server, false);
        let answered = self.piecewise(from_server, to_client, true);
        tokio::select! {
            _ = asked => {}
            _ = answered => {}
            // An error means that the proxy is gone.
            _ = sky.wait_for(|sky| sky.weather == Weather::Cut) => {}
        }
    }

    /// Waits until something may pass. False: never.
    async fn open(&mut self) -> bool {
        let own = self.generation;
        let open = |sky: &Sky| sky.generation == own && sky.weather != Weather::Silent;
        self.sky.wait_for(open).await.is_ok()
    }

    async fn piecewise(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        answers: bool,
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from.read(&mut piece).await?;
            if !answers && self.sky.borrow().weather == Weather::Silent {
                // A panic elsewhere leaves the bytes whole.
                self.withheld.lock().unwrap_or_else(PoisonError::into_inner).extend(&piece[..length]);
            }
            if !self.open().await {
                return Ok(());
            }
            if length == 0 {
                return to.shutdown().await;
            }
            let weather = self.sky.borrow().weather;
            if let (Weather::Slow(delay), true) = (weather, answers) {
                tokio::time::sleep(delay).await;
            }
            to.write_all(&piece[..length]).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that gives back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        address
    }

    async fn said(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).await.map(|_| heard)
    }

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn silence_keeps_connections_and_what_was_sent_arrives_afterwards() {
        let proxy = Proxy::start(echo().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(said(&mut stream, b"one").await.expect("an answer"), b"one");
        proxy.set(Weather::Silent);
        let mut later = TcpStream::connect(proxy.address()).await.expect("connections are taken");
        assert!(tokio::time::timeout(SHORT, said(&mut later, b"new")).await.is_err(), "nothing passes");
        assert!(tokio::time::timeout(SHORT, said(&mut stream, b"two")).await.is_err(), "nothing passes");
        assert!(proxy.withheld("two") && !proxy.withheld("one"));
        proxy.set(Weather::Clear);
        let mut heard = [0; 3];
        stream.read_exact(&mut heard).await.expect("it arrives");
        assert_eq!(&heard, b"two");
    }

    #[tokio::test]
    async fn a_stranded_connection_passes_nothing_for_ever_and_a_new_one_does() {
        let proxy = Proxy::start(echo().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(said(&mut stream, b"one").await.expect("an answer"), b"one");
        proxy.strand();
        assert!(tokio::time::timeout(SHORT, said(&mut stream, b"two")).await.is_err(), "nothing passes");
        let mut new = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(said(&mut new, b"two").await.expect("an answer"), b"two");
        proxy.set(Weather::Cut);
        assert!(said(&mut stream, b"x").await.is_err(), "it was ended");
    }
}
