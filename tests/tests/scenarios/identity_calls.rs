//! A caller who calls all the time, with a token that can be exchanged: none of his calls may fail.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use switchyard_proto::api::v1::{ListPoliciesRequest, policy_service_client::PolicyServiceClient};
use switchyard_tests::{guard::bearing, wait};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Between two calls.
const EVERY: Duration = Duration::from_millis(20);
/// An answer that takes longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Counted {
    token: String,
    done: u64,
    failed: Vec<String>,
}

/// The caller.
pub struct Calls {
    counted: Arc<Mutex<Counted>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn lock(counted: &Mutex<Counted>) -> std::sync::MutexGuard<'_, Counted> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Calls {
    /// Begins to call.
    pub fn start(channel: Channel, token: String) -> Self {
        let counted = Arc::new(Mutex::new(Counted { token, ..Counted::default() }));
        let stop = CancellationToken::new();
        let (ours, stopped) = (counted.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut client = PolicyServiceClient::new(channel);
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !stopped.is_cancelled() {
                ticks.tick().await;
                let token = lock(&ours).token.clone();
                let request = bearing(ListPoliciesRequest::default(), &token);
                match tokio::time::timeout(ANSWER_WITHIN, client.list_policies(request)).await {
                    Ok(Ok(_)) => lock(&ours).done += 1,
                    Ok(Err(status)) => lock(&ours).failed.push(format!("{status:?}")),
                    Err(_) => lock(&ours).failed.push("no answer".to_owned()),
                }
            }
        });
        Self { counted, stop, task }
    }

    /// From the next call on.
    pub fn use_token(&self, token: &str) {
        token.clone_into(&mut lock(&self.counted).token);
    }

    /// Waits until so many more calls were answered.
    pub async fn more(&self, calls: u64) {
        let begun = lock(&self.counted).done;
        wait::until(&format!("{calls} more calls to be answered"), async || {
            let counted = lock(&self.counted);
            wait::check(counted.done >= begun + calls, || {
                format!("{} were, {:?}", counted.done - begun, counted.failed)
            })
        })
        .await;
        self.none_failed();
    }

    fn none_failed(&self) {
        let counted = lock(&self.counted);
        assert!(
            counted.failed.is_empty(),
            "{} calls failed, {} did not: {:#?}",
            counted.failed.len(),
            counted.done,
            &counted.failed[..counted.failed.len().min(5)]
        );
    }

    /// Ends it, and gives how many calls were answered; none may have failed.
    pub async fn finish(self) -> u64 {
        self.stop.cancel();
        self.task.await.expect("the caller does not panic");
        let counted = lock(&self.counted);
        assert!(counted.failed.is_empty(), "{:#?}", counted.failed);
        counted.done
    }
}
