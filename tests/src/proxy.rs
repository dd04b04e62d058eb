//! A network between two programs that can be cut and made slow. It passes bytes on and understands nothing of them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
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
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    stop: CancellationToken,
}

impl Proxy {
    /// Starts one in front of a server.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (weather, stop) = (Arc::new(watch::Sender::new(Weather::Clear)), CancellationToken::new());
        let (seen, stopped) = (weather.clone(), stop.clone());
        tokio::spawn(stopped.run_until_cancelled_owned(async move {
            // The address is this proxy's alone: accepting fails only for a connection that is gone already.
            loop {
                if let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, server, seen.subscribe()));
                }
            }
        }));
        Ok(Self { address, weather, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes it, for connections that are there too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.send_replace(Weather::Cut);
        self.stop.cancel();
    }
}

async fn pass(client: TcpStream, server: SocketAddr, mut weather: watch::Receiver<Weather>) {
    if *weather.borrow() == Weather::Cut {
        return;
    }
    let Ok(upstream) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = upstream.into_split();
    let asked = piecewise(from_client, to_server, None);
    let answered = piecewise(from_server, to_client, Some(weather.clone()));
    tokio::select! {
        _ = asked => {}
        _ = answered => {}
        // An error means that the proxy is gone.
        _ = weather.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn piecewise(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: Option<watch::Receiver<Weather>>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let delay = weather.as_ref().and_then(|weather| match *weather.borrow() {
            Weather::Slow(delay) => Some(delay),
            Weather::Clear | Weather::Cut => None,
        });
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&piece[..length]).await?;
    }
}
