//! Dry runs of shifts: what they promise is what is then done. The calls at AWS that a dry run lists, step by step, are those that
//! the shift makes; nothing is done by looking.

use switchyard_proto::api::v1::{self as api, ShiftState, shift_service_client::ShiftServiceClient};
use switchyard_tests::{wait, world::World};
use tonic::transport::Channel;

async fn shifts(world: &World) -> ShiftServiceClient<Channel> {
    ShiftServiceClient::connect(world.hub.grpc_url()).await.expect("the hub takes a connection")
}

/// 5, 50 and 100 percent of the way to green, one after the other.
fn request(dry_run: bool) -> api::CreateShiftRequest {
    let step = |percent| api::ShiftStep { percent, ..Default::default() };
    let strategy = api::ShiftStrategy { steps: [5, 50, 100].map(step).into(), ..Default::default() };
    let policy = api::PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() };
    let target = api::ShiftPolicy { policy: Some(policy), to_cluster: "green".to_owned(), ..Default::default() };
    let spec = api::ShiftSpec { policies: vec![target], strategy: Some(strategy), ..Default::default() };
    api::CreateShiftRequest { request_id: "to-green".to_owned(), spec: Some(spec), dry_run }
}

async fn done(client: &mut ShiftServiceClient<Channel>, id: &str) -> api::Shift {
    let request = api::WatchShiftRequest { id: id.to_owned() };
    let mut stream = client.watch_shift(request).await.expect("the shift is watched").into_inner();
    let mut last = None;
    while let Some(told) = stream.message().await.expect("the stream goes on to its end") {
        last = told.shift;
    }
    last.expect("the shift is told at least once")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shift_makes_the_calls_that_its_dry_run_lists_and_no_others() {
    let world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let mut client = shifts(&world).await;
    let position = world.elb().position().await.expect("the call log");
    // What the engine has read is published to those who look ahead twice a second.
    let looked = wait::until("a dry run that nothing stands in the way of", async || {
        let answer = client.clone().create_shift(request(true)).await.map_err(|e| e.to_string())?.into_inner();
        let waits = answer.plans.iter().flat_map(|step| &step.plan).any(|plan| !plan.notes.is_empty());
        let clear = answer.findings.is_empty() && answer.notes.len() == 1 && !waits;
        wait::check(clear, || format!("{:?} {:?} {:?}", answer.findings, answer.notes, answer.plans))?;
        Ok::<_, String>(answer)
    })
    .await;
    assert_eq!(looked.notes[0].reason, "OpenStreams");
    let promised: Vec<(u32, Vec<String>)> = looked
        .plans
        .iter()
        .map(|plan| (plan.percent, plan.plan.iter().flat_map(|p| &p.steps).map(|s| s.operation.clone()).collect()))
        .collect();
    let modify = || vec!["ModifyRule".to_owned()];
    assert_eq!(promised, [(5, modify()), (50, modify()), (100, modify())], "{:#?}", looked.plans);
    let summaries: Vec<&str> =
        looked.plans.iter().flat_map(|p| &p.plan).flat_map(|p| &p.steps).map(|s| s.summary.as_str()).collect();
    let all_differ = summaries.iter().collect::<std::collections::BTreeSet<_>>().len() == summaries.len();
    assert!(all_differ, "{summaries:?}");
    let written = world.elb().writes_since(position).await.expect("the call log").calls;
    assert_eq!(written.len(), 0, "looking writes nothing: {written:?}");

    let shift = client.create_shift(request(false)).await.expect("what nothing stood in the way of").into_inner().shift;
    let ended = done(&mut client, &shift.expect("a shift").id).await;
    let status = ended.status.expect("a status");
    assert_eq!(status.state(), ShiftState::Succeeded, "{status:#?}");
    let made = world.elb().writes_since(position).await.expect("the call log").calls;
    let made: Vec<&str> = made.iter().map(|call| call.operation.as_str()).collect();
    assert_eq!(made, ["ModifyRule"; 3]);
    let weights = world.elb().state().await.expect("the load balancer").weights("shop/checkout");
    assert_eq!(weights, Some([("blue".to_owned(), 0), ("green".to_owned(), 100)].into()));

    // The way back, looked at first: one call.
    let back = |dry_run| api::RollbackShiftRequest {
        request_id: "back".to_owned(),
        id: ended.id.clone(),
        dry_run,
        ..Default::default()
    };
    let looked = client.rollback_shift(back(true)).await.expect("a dry run").into_inner();
    assert_eq!(looked.findings, []);
    let steps: Vec<&api::PlanStep> = looked.plans.iter().flat_map(|p| &p.plan).flat_map(|p| &p.steps).collect();
    assert_eq!(steps.len(), 1, "{steps:?}");
    let position = world.elb().position().await.expect("the call log");
    let shift = client.rollback_shift(back(false)).await.expect("a rollback").into_inner().shift;
    let ended = done(&mut client, &shift.expect("a shift").id).await;
    assert_eq!(ended.status.expect("a status").state(), ShiftState::Succeeded);
    let made = world.elb().writes_since(position).await.expect("the call log").calls;
    assert_eq!(made.iter().map(|call| call.operation.as_str()).collect::<Vec<_>>(), ["ModifyRule"]);
    world.stop().await;
}
