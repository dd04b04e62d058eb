//! The JSON gateway from outside: schemathesis tries every call against the gateway's own description, curl runs what
//! `docs/http.md` shows, and buf has to notice what would break callers. Needs `scripts/schemathesis.sh`, `scripts/buf.sh`, curl and
//! jq, and fails without them; `make test` sees to it.

mod examples;
mod page;
mod protos;
mod schemathesis;

use switchyard_tests::{wait, world::World};

/// The line of the hub's log that tells where the gateway is.
const SERVED: &str = "the API is served as JSON";

/// Starts the hub of this world again with a gateway, and says where that is.
async fn open_gateway(world: &mut World) -> String {
    world.hub.stop().await.expect("the hub ends well");
    world.hub.add_argument("--gateway-listen=127.0.0.1:0");
    world.hub.start_again().await.expect("the hub starts with a gateway");
    world.connected().await;
    let log = world.folder().join("hub.log");
    wait::until("the hub to say where its gateway is", async || {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        let line = text.lines().rev().find(|line| line.contains(SERVED)).ok_or("it is not served yet")?;
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("address="));
        address.map(|address| format!("http://{address}")).ok_or_else(|| line.to_owned())
    })
    .await
}
