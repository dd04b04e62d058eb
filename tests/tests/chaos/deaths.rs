//! Programs that die or stand still, at random.

use rand::Rng;
use switchyard_tests::chaos::{Blow, Mortals, Victim, dice};

/// Stated: hub, agents and Postgres are killed or stopped in turn, each for longer than the lease and the heartbeat last, while
/// pods stand still. Nothing at AWS is taken away, no request fails, and afterwards a change of weights is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_program_dies_or_stands_still_nothing_is_taken_away_and_no_request_fails() {
    let mut dice = dice("whatever program dies");
    let mut mortals = Mortals::set().await;
    for victim in Victim::ALL {
        let blow = if dice.random() { Blow::Kill } else { Blow::Stop };
        mortals.without(&[victim], blow, dice.random_range(2..9)).await;
    }
    mortals.nothing_came_of_it().await;
}
