//! The ports: bound before anything else, opened when the store is there, with one set of bounds and certificates for gRPC and gateway.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use switchyard_core::{
    access::{Grants, Identity},
    ids::ClusterName,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Tasks, descriptors};
use crate::{
    access::{self, AccessSettings, refusals},
    authority::{Authority, AuthorityOptions},
    config::{Config, Transport},
    door::{
        Bounds, Guard, Rooms,
        tls::{LOOK_EVERY, Tls},
    },
    gateway::{self, GatewayParts, Limits},
    grpc::{self, GrantsOfResources, Services},
    metrics::Metrics,
    store::Store,
};

/// Where agents and callers come in.
pub(super) struct Doors {
    grpc: TcpListener,
    gateway: Option<TcpListener>,
    connections: usize,
}

impl Doors {
    /// Takes the addresses, and looks whether there is room for connections and the certificates can be used, before anybody waits for a
    /// database.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let connections = descriptors::connections().context("there is no room for connections")?;
        if let Transport::Tls(files) = &config.entry.transport {
            files.check().context("the certificates of the ports cannot be used")?;
        }
        let grpc = bind("--grpc-listen", config.grpc_listen).await?;
        let gateway = match config.gateway_listen {
            Some(address) => Some(bind("--gateway-listen", address).await?),
            None => None,
        };
        Ok(Self { grpc, gateway, connections })
    }

    /// Connections that this process has room for.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// Lets everybody in.
    pub fn open(
        self,
        guard: Guard,
        services: Services,
        metrics: Metrics,
        shutdown: &CancellationToken,
        tasks: &mut Tasks,
    ) -> anyhow::Result<()> {
        let Self { grpc, gateway, .. } = self;
        if let Some(tls) = &guard.tls {
            let keeping = Arc::clone(tls).keep(guard.metrics.clone(), LOOK_EVERY, shutdown.clone());
            tasks.spawn("certificates", async move {
                keeping.await;
                Ok(())
            });
        }
        let (address, encrypted) = (grpc.local_addr()?, guard.tls.is_some());
        let (routes, inside, token) = (services.routes(), guard.clone(), shutdown.clone());
        tasks.spawn("grpc", async move {
            grpc::serve(grpc, inside, services, token).await;
            Ok(())
        });
        tracing::info!(%address, encrypted, "gRPC is served");
        if let Some(listener) = gateway {
            let (address, token) = (listener.local_addr()?, shutdown.clone());
            let parts = GatewayParts { routes, metrics, limits: Limits::default() };
            tasks.spawn("gateway", async move { Ok(gateway::serve(listener, guard, parts, token).await?) });
            tracing::info!(%address, encrypted, "the API is served as JSON");
        }
        Ok(())
    }
}

/// Takes an address.
pub(super) async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!("{flag} {address} cannot be listened on; is another hub running? Choose another address or stop it")
    })
}

/// Who may come in, and what for.
pub(super) struct Entrance {
    pub guard: Guard,
    pub access: access::Gatekeeper,
    pub authority: Authority,
    pub grants_of_resources: GrantsOfResources,
}

/// Opens the authority, the gate and the certificates, and starts what they do in the background. None when the hub is told to stop
/// meanwhile.
pub(super) async fn entrance(
    config: &Config,
    store: &Store,
    connections: usize,
    metrics: &Metrics,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<Option<Entrance>> {
    let entry = &config.entry;
    let options = AuthorityOptions {
        keys: entry.authority.clone(),
        trust_domain: entry.trust_domain.clone(),
        ttl: entry.agent_certificate_ttl,
    };
    // Both wait for a store that is away.
    let opened = shutdown.run_until_cancelled(Authority::open(store.clone(), options, metrics.clone())).await;
    let Some(authority) = opened else { return Ok(None) };
    let authority = authority.context("the authority of agents' certificates cannot be opened")?;
    let (keeping, token) = (authority.clone(), shutdown.clone());
    tasks.spawn("authority", async move {
        keeping.run(token).await;
        Ok(())
    });
    let settings = AccessSettings {
        development: config.dev,
        trust_domain: entry.trust_domain.clone(),
        access_file: entry.access_file.clone(),
        rates: entry.rates,
        refusals_every: refusals::TOGETHER,
    };
    let started = access::Gatekeeper::start(settings, store.clone(), metrics.clone());
    let Some(started) = shutdown.run_until_cancelled(started).await else { return Ok(None) };
    let (access, task) = started.context("who may do what cannot be found out")?;
    let token = shutdown.clone();
    tasks.spawn("access", async move {
        task.run(token).await;
        Ok(())
    });
    let tls = match &entry.transport {
        Transport::Tls(files) => {
            let opened = Tls::open(files.clone(), authority.roots());
            Some(opened.context("the certificates of the ports cannot be used")?)
        }
        Transport::PlainLoopback => None,
    };
    let guard = Guard {
        tls,
        rooms: Rooms::new(connections, entry.connections_per_address),
        bounds: Bounds::default(),
        silent_yield: false,
        metrics: metrics.door.clone(),
    };
    let grants_of_resources = grants_of_resources(&access, config.dev);
    Ok(Some(Entrance { guard, access, authority, grants_of_resources }))
}

/// With `--dev` nobody can be told apart, and everybody may do everything.
fn grants_of_resources(access: &access::Gatekeeper, dev: bool) -> GrantsOfResources {
    if dev {
        return Arc::new(|_| Grants::everything());
    }
    let access = access.clone();
    Arc::new(move |cluster: &ClusterName| access.grants_of(&Identity::Cluster(cluster.clone())))
}
