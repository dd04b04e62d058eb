//! The scenarios: the real programs, traffic through the sandbox's data plane, and the number of failed requests as the result.
//! One binary, so that all share one Postgres. Needs the programs to be built: `make test` does that.

/// Tests of these scenarios, functions that take the kind of API server: one with the sandbox's, one with real ones.
macro_rules! on_every_kubernetes {
    ($($scenario:ident),+ $(,)?) => {$(
        mod $scenario {
            use switchyard_tests::world::Kubernetes;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn in_the_sandbox() {
                super::$scenario(Kubernetes::Sandbox).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn with_real_api_servers() {
                super::$scenario(Kubernetes::Real).await;
            }
        }
    )+};
}

mod crashes;
mod dangers;
mod faults;
mod flow;
mod foreign;
mod identity;
mod identity_calls;
mod identity_certificates;
mod identity_emergency;
mod identity_replicas;
mod identity_revoked;
mod instances;
mod looking_ahead;
mod policies;
mod quiet;
mod replicas;
mod shifts;
mod shifts_crashes;
mod shifts_faults;
mod shifts_outside;
mod shifts_refused;
mod shifts_turned;
mod sources;
mod weights;
mod whole_clusters;
mod yardctl;
