//! A hub whose database is put back to an earlier state.

use serde_json::json;

use crate::{
    chaos::{POLICY, Stage, patient},
    hub::Database,
    policy::Policy,
    postgres::Postgres,
    world::Builder,
};

/// A policy that was made after the backup.
pub const LATER: &str = "shop/cart";

/// The stage and what can be gone back to.
pub struct Restored {
    /// The stage.
    pub stage: Stage,
    backup: String,
    _postgres: Postgres,
}

impl Restored {
    /// Blue has everything when the backup is made. Then, with so many starts of the hub between writes: all goes to green, every
    /// pod is replaced, and another policy is made.
    ///
    /// # Panics
    /// When something does not come true.
    pub async fn set(later_starts: u32) -> Self {
        let postgres = Postgres::start().await.expect("Postgres starts");
        let url = postgres.database().await.expect("a database");
        let builder = patient(Builder { database: Some(Database::Url(url.clone())), ..Builder::default() });
        let mut stage = Stage::set(builder, &[("blue", 100), ("green", 0)]).await;
        stage.world.add_service("cart").await;
        // Nobody may be connected to what is copied.
        stage.world.hub.stop().await.expect("the hub ends");
        let backup = postgres.copy(&url).await.expect("a copy");
        for start in 1..=later_starts {
            stage.world.hub.start_again().await.expect("the hub starts again");
            let green = 100 * start / later_starts;
            let asked = [format!("blue={}", 100 - green), format!("green={green}")];
            let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
            stage.world.yardctl.weights_until_converged(POLICY, &asked).await;
            if start < later_starts {
                stage.world.hub.stop().await.expect("the hub ends");
            }
        }
        let cart = Policy::new("cart", &[("blue", 50), ("green", 50)]).with("/spec/order", json!(200));
        stage.world.yardctl.apply_until_converged(&cart).await;
        stage.world.begin_rolling_update("v2").await;
        stage.world.rolled().await;
        stage.world.all_healthy(POLICY).await;
        stage.world.connected().await;
        stage.world.hub.stop().await.expect("the hub ends");
        stage.forget().await;
        Self { stage, backup, _postgres: postgres }
    }

    /// The hub starts on the backup.
    ///
    /// # Panics
    /// When it does not.
    pub async fn restore(&mut self) {
        let hub = &mut self.stage.world.hub;
        hub.set_database(Database::Url(self.backup.clone()));
        hub.start_again().await.expect("the hub starts on the backup");
    }

    /// Agents that have seen a later epoch refuse this hub until they are restarted: they remember epochs in memory only.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn restart_agents(&mut self) {
        for agent in self.stage.world.agents.values_mut() {
            agent.stop().await.expect("the agent ends");
            agent.start_again().expect("the agent starts again");
        }
        self.stage.world.connected().await;
    }

    /// What was made after the backup serves on although the store does not know it.
    ///
    /// # Panics
    /// When a request fails.
    pub async fn later_policy_serves(&self) {
        let load = self.stage.world.load("cart", 50).await;
        load.more(100).await;
        load.finish_without_failures().await;
    }
}
