//! Every program killed and stopped by itself and together with others, while pods stand still and while all of them are replaced.

use rand::{Rng, seq::IndexedRandom};
use switchyard_tests::chaos::{Blow, Mortals, TOO_LONG, Victim, dice};

/// While pods stand still nobody has a reason to take anything away.
async fn standing_still(victims: &[Victim], blow: Blow) {
    let mut mortals = Mortals::set().await;
    mortals.without(victims, blow, TOO_LONG).await;
    mortals.nothing_came_of_it().await;
}

/// While pods are replaced what was missed is made up for: the new ones are targets before the old ones have ended.
async fn moving(victims: &[Victim], blow: Blow) {
    let mut mortals = Mortals::set().await;
    mortals.stage.world.begin_rolling_update("v2").await;
    mortals.without(victims, blow, TOO_LONG).await;
    mortals.stage.all_is_well().await;
}

/// One test for each row: what is struck, how, and what pods do meanwhile. Stated for all: no request fails; and while pods stand
/// still no call is made that removes anything.
macro_rules! rows {
    ($($name:ident: $pods:ident($victims:expr, $blow:expr);)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $pods(&$victims, $blow).await;
        }
    )+};
}

rows! {
    a_killed_hub_costs_no_request_and_takes_nothing_away: standing_still([Victim::Hub], Blow::Kill);
    killed_agents_cost_no_request_and_take_nothing_away: standing_still([Victim::Agents], Blow::Kill);
    a_killed_postgres_costs_no_request_and_takes_nothing_away: standing_still([Victim::Postgres], Blow::Kill);
    everything_killed_at_once_costs_no_request_and_takes_nothing_away: standing_still(Victim::ALL, Blow::Kill);
    a_hub_that_stands_still_past_its_lease_takes_nothing_away: standing_still([Victim::Hub], Blow::Stop);
    agents_that_stand_still_take_nothing_away: standing_still([Victim::Agents], Blow::Stop);
    a_postgres_that_stands_still_takes_nothing_away: standing_still([Victim::Postgres], Blow::Stop);
    everything_standing_still_at_once_takes_nothing_away: standing_still(Victim::ALL, Blow::Stop);
    everything_killed_at_once_during_a_rolling_update_costs_no_request: moving(Victim::ALL, Blow::Kill);
    a_postgres_killed_with_kill_9_during_a_rolling_update_costs_no_request: moving([Victim::Postgres], Blow::Kill);
    a_hub_that_stands_still_during_a_rolling_update_costs_no_request: moving([Victim::Hub], Blow::Stop);
    agents_that_stand_still_during_a_rolling_update_cost_no_request: moving([Victim::Agents], Blow::Stop);
    a_postgres_that_stands_still_during_a_rolling_update_costs_no_request: moving([Victim::Postgres], Blow::Stop);
    everything_standing_still_during_a_rolling_update_costs_no_request: moving(Victim::ALL, Blow::Stop);
}

/// Stated: a minute of random blows, some on several programs at once, while pods stand still: no request fails, nothing is taken
/// away, and a change of weights is served afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_random_blows_costs_no_request_and_takes_nothing_away() {
    let mut dice = dice("a minute of random blows");
    let mut mortals = Mortals::set().await;
    for _ in 0..8 {
        let count = dice.random_range(1..=2);
        let victims: Vec<Victim> = Victim::ALL.choose_multiple(&mut dice, count).copied().collect();
        let blow = if dice.random() { Blow::Kill } else { Blow::Stop };
        mortals.without(&victims, blow, dice.random_range(1..8)).await;
    }
    mortals.nothing_came_of_it().await;
}

/// Stated: the same while every pod of both clusters is replaced: no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_blows_during_a_rolling_update_cost_no_request() {
    let mut dice = dice("random blows during a rolling update");
    let mut mortals = Mortals::set().await;
    mortals.stage.world.begin_rolling_update("v2").await;
    for _ in 0..3 {
        let victim = *Victim::ALL.choose(&mut dice).expect("one of them");
        let blow = if dice.random() { Blow::Kill } else { Blow::Stop };
        // Together with the way back of the last one shorter than the pods' patience.
        mortals.without(&[victim], blow, dice.random_range(1..4)).await;
    }
    mortals.stage.all_is_well().await;
}
