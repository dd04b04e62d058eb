//! Composition root: takes addresses, starts clusters, load balancer and control API, says when all is ready, and ends it.
//! The only file that sees every part.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::{AddressError, Block, Naming};
use crate::args::Args;
use crate::cloudwatch::CloudWatch;
use crate::cluster::{Cluster, ClusterError, Place};
use crate::control::{self, ClusterInfo, Control, Info};
use crate::elb::{Elb, ElbConfig, RateLimits};
use crate::files::write_atomically;
use crate::load::Loads;
use crate::workload::node_ports::Machines;

/// The account everything belongs to: AWS's own example number.
const ACCOUNT: &str = "123456789012";
const VPC: &str = "vpc-sandbox";
/// What still runs this long after shutdown was asked for is left behind.
const SHUTDOWN_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Addresses(#[from] AddressError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the {what} cannot listen on {address}; choose another address or port 0")]
    Listen {
        what: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} cannot be written; give --dir a folder that can")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A running sandbox. Dropping it without [`Sandbox::stop`] leaves its tasks to the runtime.
pub struct Sandbox {
    control: Arc<Control>,
    elb: Elb,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), SandboxError> {
    let failed = |source| SandboxError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl Sandbox {
    /// Starts everything and writes `sandbox.json` when all of it answers.
    pub async fn start(args: &Args) -> Result<Self, SandboxError> {
        let writing = |path: PathBuf| move |source| SandboxError::Write { path, source };
        std::fs::create_dir_all(&args.dir).map_err(writing(args.dir.clone()))?;
        // Who waits for the file must not find that of an earlier run.
        let info_path = args.dir.join("sandbox.json");
        match std::fs::remove_file(&info_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(writing(info_path)(error)),
            _ => {}
        }
        let naming = if args.external.is_empty() { Naming::Loopback } else { Naming::Private };
        let block = Block::take(args.clusters.len(), naming)?;
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (elb_listener, elb_address) = bind("ELBv2 API", args.elb_listen).await?;
        let (control_listener, control_address) = bind("control API", args.control_listen).await?;
        let (cloudwatch_listener, cloudwatch_address) = bind("CloudWatch API", args.cloudwatch_listen).await?;
        let elb = Elb::new(elb_config(args, &block));
        let cloudwatch = CloudWatch::new(elb.clone(), Duration::from_millis(args.cloudwatch_delay_ms));
        let machines: Machines = {
            let elb = elb.clone();
            Arc::new(move |instance: &str, ip| elb.set_instance(instance, ip))
        };
        let mut clusters = BTreeMap::new();
        let mut infos = BTreeMap::new();
        for (index, name) in args.clusters.iter().enumerate() {
            let (region, block, tasks, shutdown, machines) =
                (args.region.as_str(), &block, &tasks, &shutdown, &machines);
            let place = Place { name, index, region, block, tasks, shutdown, machines };
            let cluster = match args.kubeconfig_of(name) {
                Some(kubeconfig) => Cluster::attach(&place, kubeconfig).await?,
                None => Cluster::start(&place).await?,
            };
            let kubeconfig = cluster.kubeconfig(&args.dir)?.display().to_string();
            infos.insert(name.clone(), ClusterInfo { api_url: cluster.url(), kubeconfig, vpc_id: VPC.to_owned() });
            clusters.insert(name.clone(), cluster);
        }
        let info = Info {
            control_url: format!("http://{control_address}"),
            elb_url: format!("http://{elb_address}"),
            cloudwatch_url: format!("http://{cloudwatch_address}"),
            clusters: infos,
            vpc_id: VPC.to_owned(),
            vpc_cidr: block.cidr().to_string(),
            region: args.region.clone(),
            account_id: ACCOUNT.to_owned(),
            pid: std::process::id(),
        };
        let control = Arc::new(Control { info, clusters, loads: Loads::new(shutdown.child_token()) });
        let sandbox = Self { control, elb, tasks, shutdown };
        sandbox.serve(elb_listener, control_listener, block, &cloudwatch);
        sandbox.serve_cloudwatch(cloudwatch_listener, cloudwatch);
        sandbox.tasks.close();
        let text = serde_json::json!(sandbox.info());
        write_atomically(&info_path, &format!("{text:#}\n")).map_err(writing(info_path))?;
        Ok(sandbox)
    }

    fn serve(&self, elb_listener: TcpListener, control_listener: TcpListener, block: Block, cloudwatch: &CloudWatch) {
        let (elb, stop) = (self.elb.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            // The block is held until nothing of the sandbox listens in it any more.
            let _block = block;
            if let Err(error) = elb.serve(elb_listener, stop.clone()).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the load balancer stopped, so the sandbox does"
                );
                stop.cancel();
            }
        });
        let router = control::router(self.control.clone()).nest("/elb", self.elb.control_router());
        let router = router.nest("/cloudwatch", cloudwatch.control_router());
        let stop = self.shutdown.clone();
        self.tasks.spawn(async move {
            let done = axum::serve(control_listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
            if let Err(error) = done.await {
                tracing::error!(%error, "the control API stopped, so the sandbox does");
                stop.cancel();
            }
        });
    }

    fn serve_cloudwatch(&self, listener: TcpListener, cloudwatch: CloudWatch) {
        let stop = self.shutdown.clone();
        self.tasks.spawn(async move {
            if let Err(error) = cloudwatch.serve(listener, stop.clone()).await {
                tracing::error!(%error, "CloudWatch stopped, so the sandbox does");
                stop.cancel();
            }
        });
    }

    /// How to reach it.
    pub fn info(&self) -> &Info {
        &self.control.info
    }

    /// Cancelled when the sandbox is ending, by request or because a part of it failed.
    pub fn ending(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Ends everything and waits for it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        if tokio::time::timeout(SHUTDOWN_TIME, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time and are left behind");
        }
    }
}

fn elb_config(args: &Args, block: &Block) -> ElbConfig {
    ElbConfig {
        account_id: ACCOUNT.to_owned(),
        region: args.region.clone(),
        vpc_id: VPC.to_owned(),
        vpc_cidr: block.cidr(),
        loopback_base: block.load_balancers(),
        time_scale: args.time_scale,
        seed: args.seed,
        propagation: Duration::from_millis(args.propagation_ms),
        rate_limits: RateLimits::default(),
        metrics_period: Duration::from_millis(args.cloudwatch_period_ms),
    }
}
