//! The request budget as something to wait for: order, cancellation, wake-ups. The arithmetic is tested in core.

use std::{
    pin::pin,
    sync::Mutex,
    task::Poll,
    time::{Duration, Instant},
};

use futures::poll;
use switchyard_core::budget::{Bucket, Class, Rate, Rates};
use switchyard_hub::elb::Budget;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

fn budget(per_second: f64, burst: u32) -> Budget {
    let rate = Rate::new(per_second, burst).unwrap();
    Budget::new(Rates { describe: rate, modify: rate, register: rate })
}

fn waiting(budget: &Budget, bucket: Bucket) -> usize {
    let views = budget.snapshot();
    views.iter().find(|view| view.bucket == bucket).unwrap().waiting
}

#[tokio::test]
async fn the_most_urgent_waiter_is_served_first_however_late_it_came() {
    // A token a second: the futures below are polled well within the first.
    let budget = budget(1.0, 1);
    budget.acquire(Bucket::Modify, Class::Create).await;
    let served = Mutex::new(Vec::new());
    let wait = async |name: &'static str, class: Class| {
        budget.acquire(Bucket::Modify, class).await;
        served.lock().unwrap().push(name);
    };
    let mut first = pin!(wait("create 1", Class::Create));
    let mut second = pin!(wait("create 2", Class::Create));
    let mut flip = pin!(wait("flip", Class::WeightShift));
    // Polled once each, so that they stand in line in this order.
    assert_eq!(poll!(&mut first), Poll::Pending);
    assert_eq!(poll!(&mut second), Poll::Pending);
    assert_eq!(poll!(&mut flip), Poll::Pending);
    timeout(DEADLINE, async { tokio::join!(first, second, flip) }).await.unwrap();
    assert_eq!(*served.lock().unwrap(), ["flip", "create 1", "create 2"]);
}

#[tokio::test]
async fn a_waiter_that_is_dropped_frees_its_place() {
    let budget = budget(1.0, 1);
    budget.acquire(Bucket::Register, Class::Register).await;
    let mut heir = Box::pin(budget.acquire(Bucket::Register, Class::Register));
    {
        let mut first = pin!(budget.acquire(Bucket::Register, Class::DeregisterDead));
        assert_eq!(poll!(&mut first), Poll::Pending);
        assert_eq!(poll!(&mut heir), Poll::Pending);
        assert_eq!(waiting(&budget, Bucket::Register), 2);
    }
    assert_eq!(waiting(&budget, Bucket::Register), 1);
    timeout(DEADLINE, &mut heir).await.unwrap();
    drop(heir);
    assert_eq!(waiting(&budget, Bucket::Register), 0);
}

#[tokio::test]
async fn a_dropped_waiter_takes_no_token() {
    let budget = budget(0.001, 2);
    drop(budget.acquire(Bucket::Modify, Class::WeightShift));
    assert!(budget.try_acquire(Bucket::Modify, Class::WeightShift));
    assert!(budget.try_acquire(Bucket::Modify, Class::WeightShift));
    for _ in 0..3 {
        let mut gone = pin!(budget.acquire(Bucket::Modify, Class::WeightShift));
        assert_eq!(poll!(&mut gone), Poll::Pending);
    }
    assert_eq!(waiting(&budget, Bucket::Modify), 0);
    assert!(!budget.try_acquire(Bucket::Modify, Class::WeightShift));
}

#[tokio::test]
async fn a_flip_passes_ten_thousand_registrations_and_creations_that_wait() {
    let budget = budget(1000.0, 4);
    let mut crowd = Vec::new();
    for _ in 0..10_000 {
        let mut one = Box::pin(budget.acquire(Bucket::Modify, Class::Create));
        if poll!(&mut one).is_pending() {
            crowd.push(one);
        }
    }
    assert!(crowd.len() > 1000, "the crowd waits: {}", crowd.len());
    // The reserve: not a moment's wait, even with the crowd in line.
    assert_eq!(poll!(pin!(budget.acquire(Bucket::Modify, Class::WeightShift))), Poll::Ready(()));
}

#[tokio::test]
async fn the_pace_is_kept() {
    let budget = budget(100.0, 1);
    let started = Instant::now();
    let all = async {
        for _ in 0..21 {
            budget.acquire(Bucket::Describe, Class::Audit).await;
        }
    };
    timeout(DEADLINE, all).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(199), "{:?}", started.elapsed());
}

#[tokio::test]
async fn all_waiters_of_all_classes_are_served_on_many_threads() {
    let budget = budget(1000.0, 4);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..300 {
        let budget = budget.clone();
        let class = Class::ALL[n % Class::ALL.len()];
        tasks.spawn(async move { budget.acquire(Bucket::ALL[n % 3], class).await });
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    timeout(DEADLINE, all).await.expect("nobody is forgotten");
    let admitted: u64 = budget.snapshot().iter().flat_map(|view| view.admitted).sum();
    assert_eq!(admitted, 300);
}
