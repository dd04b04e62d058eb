//! A proxy in each connection that a network can take away: agents to hub, hub to Postgres, hub to AWS, agents to their API
//! servers. Clients and the data plane do not go through them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    postgres,
    proxy::{Proxy, Server, Weather},
    sandbox::Info,
};

/// The proxies of one world.
#[derive(Debug)]
pub struct Network {
    /// From the hub to the ELBv2 API.
    pub aws: Proxy,
    /// From the hub to Postgres.
    pub database: Proxy,
    /// From the agents to the hub.
    pub hub: Proxy,
    /// From each agent to its API server.
    pub api_servers: BTreeMap<String, Proxy>,
}

/// A link of the network; what a row of the failure table takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Agents to hub.
    AgentsToHub,
    /// Hub to Postgres.
    HubToDatabase,
    /// Hub to AWS.
    HubToAws,
    /// Agents to their API servers.
    AgentsToApiServers,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AgentsToHub, Self::HubToDatabase, Self::HubToAws, Self::AgentsToApiServers];
}

/// `http://127.0.0.1:80/` as an address.
fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let host = url.strip_prefix("http://").with_context(|| format!("{url} is no plain http address"))?;
    host.trim_end_matches('/').parse().with_context(|| format!("{url} has no address and port"))
}

fn url(proxy: &Proxy) -> String {
    format!("http://{}", proxy.address())
}

impl Network {
    /// Proxies in front of a sandbox's servers, a private Postgres and a hub that is yet to be started there.
    ///
    /// # Errors
    /// When a port is missing, or an address is none.
    pub async fn start(sandbox: &Info, database_url: &str) -> anyhow::Result<Started> {
        let database = Proxy::start(Server::Unix(postgres::socket_of(database_url)?)).await?;
        let database_url = postgres::url_through(database_url, database.address())?;
        let aws = Proxy::start(address(&sandbox.elb_url)?).await?;
        let elb_url = url(&aws);
        Ok(Started { sandbox: Info { elb_url, ..sandbox.clone() }, database_url, aws, database })
    }

    /// Changes the weather on a link, for all clusters.
    pub fn set(&self, link: Link, weather: Weather) {
        self.each(link, |proxy| proxy.set(weather));
    }

    /// The connections of now on a link never pass anything again.
    pub fn strand(&self, link: Link) {
        self.each(link, Proxy::strand);
    }

    fn each(&self, link: Link, change: impl Fn(&Proxy)) {
        match link {
            Link::AgentsToHub => change(&self.hub),
            Link::HubToDatabase => change(&self.database),
            Link::HubToAws => change(&self.aws),
            Link::AgentsToApiServers => self.api_servers.values().for_each(change),
        }
    }

    /// Where the agents reach the hub.
    pub fn hub_url(&self) -> String {
        url(&self.hub)
    }

    /// The kubeconfig of a cluster's agent, written into this folder.
    ///
    /// # Errors
    /// When the sandbox's own cannot be read.
    pub async fn kubeconfig(&mut self, folder: &Path, sandbox: &Info, cluster: &str) -> anyhow::Result<PathBuf> {
        let place = sandbox.clusters.get(cluster).with_context(|| format!("there is no cluster {cluster}"))?;
        let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&place.kubeconfig)?)?;
        let server = &mut config["clusters"][0]["cluster"]["server"];
        let real = server.as_str().context("a kubeconfig has a server")?;
        let proxy = Proxy::start(address(real)?).await?;
        *server = url(&proxy).into();
        let path = folder.join(format!("{cluster}-behind-proxy.kubeconfig"));
        std::fs::write(&path, config.to_string())?;
        self.api_servers.insert(cluster.to_owned(), proxy);
        Ok(path)
    }
}

/// What a hub is started with.
#[derive(Debug)]
pub struct Started {
    /// The sandbox as the hub is to see it.
    pub sandbox: Info,
    /// The database as the hub is to see it.
    pub database_url: String,
    aws: Proxy,
    database: Proxy,
}

impl Started {
    /// The whole network, once the hub listens.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn before(self, hub_url: &str) -> anyhow::Result<Network> {
        let hub = Proxy::start(address(hub_url)?).await?;
        Ok(Network { aws: self.aws, database: self.database, hub, api_servers: BTreeMap::new() })
    }
}
