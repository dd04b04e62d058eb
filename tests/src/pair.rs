//! Two replicas of the hub on one database: one leads, the other stands by.

use sqlx::{Connection, PgConnection};

use crate::{
    chaos::{POLICY, Stage, holds_the_lease, patient},
    hub::{Database, Hub, Times},
    postgres::Postgres,
    world::Builder,
    yardctl::Yardctl,
};

/// The stage with a second replica. The first is the one that agents and the world's yardctl know.
pub struct Pair {
    /// With the first replica.
    pub stage: Stage,
    /// The second one, which reaches everything directly.
    pub second: Hub,
    /// Speaks to the second one.
    pub yardctl: Yardctl,
    url: String,
    _postgres: Postgres,
}

impl Pair {
    /// Blue has everything; the first replica leads. All connections of the first go through proxies.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn set() -> Self {
        let postgres = Postgres::start().await.expect("Postgres starts");
        let url = postgres.database().await.expect("a database");
        let database = Some(Database::Url(url.clone()));
        let builder = patient(Builder { database, behind_proxies: true, ..Builder::default() });
        let stage = Stage::set(builder, &[("blue", 100), ("green", 0)]).await;
        let folder = stage.world.folder().join("second");
        std::fs::create_dir_all(&folder).expect("a folder");
        let place = stage.world.sandbox.info();
        let times = Times { audit: "2s", ..Times::default() };
        let second = Hub::start(&folder, place, Database::Url(url.clone()), &times).await;
        let second = second.expect("the second replica starts");
        holds_the_lease(&stage.world.hub, true).await;
        holds_the_lease(&second, false).await;
        let yardctl = Yardctl::new(second.grpc_url()).expect("yardctl");
        Self { stage, second, yardctl, url, _postgres: postgres }
    }

    /// The epochs of everything that was ever begun at AWS, in the order in which it was recorded.
    ///
    /// # Panics
    /// When the database does not answer.
    pub async fn epochs(&self) -> Vec<i64> {
        let mut database = PgConnection::connect(&self.url).await.expect("the database");
        let epochs = sqlx::query_scalar("select epoch from intents order by id").fetch_all(&mut database).await;
        let epochs = epochs.expect("the intents");
        database.close().await.expect("the connection ends");
        epochs
    }

    /// What was begun is recorded under epochs that never fall; everything works, also without the second replica.
    ///
    /// # Panics
    /// When something does not.
    pub async fn all_is_well(mut self) {
        let epochs = self.epochs().await;
        assert!(epochs.is_sorted(), "a call was recorded under an epoch that had passed: {epochs:?}");
        assert!(epochs.first() < epochs.last(), "two epochs wrote: {epochs:?}");
        self.stage.world.connected().await;
        self.yardctl.converged(POLICY).await;
        self.second.stop().await.expect("the second replica ends well");
        holds_the_lease(&self.stage.world.hub, true).await;
        self.stage.all_is_well().await;
    }
}
