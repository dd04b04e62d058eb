//! What a game day says before it is played.

mod failover_support;

use failover_support::{Scene, at, ceiling, name};
use switchyard_core::{
    failover::Input,
    fleet::{
        Mode,
        forecast::{Forecast, Verdict, loss},
    },
    policy::Capacity,
    status::Reason,
};

fn forecast(scene: &Scene, lost: &str, force: bool) -> Forecast {
    let input = Input {
        rules: scene.rules.as_ref(),
        capacity: scene.capacity.as_ref(),
        clusters: &scene.clusters,
        has_rule: true,
        failback_at: None,
        now: at(scene.now),
    };
    loss(&input, &scene.memory, &name(lost), force)
}

fn after(forecast: &Forecast) -> Vec<u32> {
    forecast.clusters.iter().map(|cluster| cluster.after.get()).collect()
}

fn capacity(peak: u32) -> Option<Capacity> {
    Some(Capacity { peak_requests_per_second: peak, requests_per_second_per_target: 100 })
}

const TWO: &[(&str, u32)] = &[("blue", 50), ("green", 50)];

#[test]
fn the_loss_of_a_cluster_without_a_share_touches_nothing() {
    let scene = Scene::settled(&[("blue", 100), ("green", 0)]);
    assert_eq!(forecast(&scene, "green", false).verdict, Verdict::Untouched);
    assert_eq!(forecast(&scene, "red", false).verdict, Verdict::Untouched);
}

#[test]
fn without_a_declared_capacity_nobody_knows() {
    let scene = Scene::settled(TWO);
    let forecast = forecast(&scene, "blue", false);
    assert_eq!((forecast.verdict, after(&forecast)), (Verdict::Unproven, vec![0, 100]));
    assert!(forecast.message.starts_with("green 50.0 % -> 100.0 % with 10 healthy targets; "), "{}", forecast.message);
}

#[test]
fn survivors_that_can_carry_it_are_named_with_what_they_can() {
    let mut scene = Scene::settled(TWO);
    scene.capacity = capacity(900);
    let forecast = forecast(&scene, "blue", false);
    assert_eq!((forecast.verdict, after(&forecast)), (Verdict::Carried, vec![0, 100]));
    assert!(forecast.message.contains("can carry 111.1 %"), "{}", forecast.message);
}

#[test]
fn what_the_others_cannot_carry_is_said_and_a_force_says_what_it_would_do() {
    let mut scene = Scene::settled(TWO);
    scene.capacity = capacity(1250);
    let held = forecast(&scene, "blue", false);
    assert_eq!((held.verdict, held.reason, after(&held)), (Verdict::Overloaded, Reason::BrownOut, vec![20, 80]));
    let forced = forecast(&scene, "blue", true);
    assert_eq!(
        (forced.verdict, forced.reason, after(&forced)),
        (Verdict::Overloaded, Reason::Overloaded, vec![0, 100])
    );
}

#[test]
fn the_only_cluster_that_answers_cannot_be_lost() {
    let mut scene = Scene::settled(TWO);
    scene.health("green", 0, 10);
    scene.during(20);
    let forecast = forecast(&scene, "blue", false);
    assert_eq!(forecast.verdict, Verdict::NotCarried, "{}", forecast.message);
    let alone = Scene::settled(&[("blue", 100)]);
    assert_eq!(self::forecast(&alone, "blue", false).verdict, Verdict::NotCarried);
}

#[test]
fn in_a_panic_the_forecast_says_that_nothing_would_move() {
    let mut scene = Scene::settled(TWO);
    scene.health("green", 2, 10);
    scene.health("blue", 2, 10);
    scene.during(20);
    let forecast = forecast(&scene, "blue", false);
    assert_eq!((forecast.verdict, forecast.reason), (Verdict::NotCarried, Reason::Panic));
}

#[test]
fn policies_without_failover_lose_a_cluster_to_the_others_all_the_same() {
    let mut scene = Scene::settled(TWO);
    scene.rules = None;
    assert_eq!(after(&forecast(&scene, "green", false)), [100, 0]);
}

#[test]
fn a_standby_takes_what_its_level_says() {
    let mut scene = Scene::settled(&[("blue", 100), ("dr", 0)]);
    scene.standby("dr", 1, 100);
    assert_eq!(after(&forecast(&scene, "blue", false)), [0, 100]);
}

#[test]
fn a_cluster_that_is_half_drained_is_lost_by_what_it_still_has() {
    let mut scene = Scene::settled(TWO);
    scene.cluster("blue").ceiling = ceiling(Mode::Draining, 500);
    scene.look();
    let forecast = forecast(&scene, "blue", false);
    assert!(forecast.clusters[0].share_before.abs_diff(333) <= 2, "{forecast:?}");
    assert_eq!(forecast.clusters[0].share_after, 0);
}

#[test]
fn verdicts_survive_their_json() {
    let forecast = forecast(&Scene::settled(TWO), "blue", false);
    let json = serde_json::to_string(&forecast).unwrap();
    assert_eq!(serde_json::from_str::<Forecast>(&json).unwrap(), forecast);
}
