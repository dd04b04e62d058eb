//! A cluster's stream of shifts as the hub reads it: messages with their lengths before them, each decoded within bounds and checked, once
//! with every right and once with none. The agent is hostile, and whoever may write a resource in its cluster is, too.

use switchyard_core::access::Grants;
use switchyard_hub::{
    fuzz::shifts::{Resource, Rights, hello, resource},
    grpc::GateSources,
};
use switchyard_proto::agent::v1::SyncShiftsRequest;

use crate::{policy_stream::messages, text::is_one_sound_line};

/// Characters of a reason in the audit log.
const MOST_REASON: usize = 1024;

/// Tries one stream; it is taken when one of its resources would make a shift.
pub fn run(data: &[u8]) -> bool {
    let mut stream = messages::<SyncShiftsRequest>(data).into_iter();
    let Some(first) = stream.next() else { return false };
    let cluster = match hello(first) {
        Ok(hello) => hello.cluster,
        Err(end) => {
            is_one_sound_line("a greeting", &end);
            return false;
        }
    };
    let gate_sources = GateSources {
        prometheus: ["main".parse().expect("a name")].into(),
        webhooks: ["ci".parse().expect("a name")].into(),
        cloudwatch: true,
    };
    let (all, none) = (Grants::everything(), Grants::none());
    let mut taken = false;
    for message in stream {
        let with =
            |grants| resource(message.clone(), Rights { cluster: &cluster, gate_sources: &gate_sources, grants });
        match (with(&all), with(&none)) {
            (Ok(able), Ok(unable)) => {
                assert!(!able.lacks_a_right, "whoever may do everything lacks a right");
                assert!(
                    able.asked.is_ok() || unable.asked.is_err(),
                    "who has no right is taken, and who has all is not"
                );
                assert!(!unable.lacks_a_right || unable.asked.is_err(), "a right is lacking, and the shift is taken");
                is_sound(&able);
                is_sound(&unable);
                taken |= able.asked.is_ok();
            }
            (Err(end), Err(other)) => {
                assert_eq!(end, other);
                is_one_sound_line("a message", &end);
                return taken;
            }
            (able, unable) => panic!("a key depends on rights: {able:?} and {unable:?}"),
        }
    }
    taken
}

fn is_sound(resource: &Resource) {
    is_one_sound_line("a name", &format!("{}/{} {}", resource.namespace, resource.name, resource.uid));
    assert!(resource.reason.chars().count() <= MOST_REASON && !resource.reason.contains('\0'), "{:?}", resource.reason);
    match &resource.asked {
        Ok(plan) => assert!(!plan.spec.policies.is_empty()),
        Err(why) => is_one_sound_line("why it is refused", why),
    }
}
