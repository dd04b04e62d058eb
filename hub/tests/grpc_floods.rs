//! What a hostile agent can make of the hub's memory with one message. Alone in its binary: the memory of the whole process is looked at.
//! The walk that refuses such messages is tested in `proto/src/walk_tests.rs`.

mod grpc_support;
mod store_support;

use bytes::{Buf, BufMut, Bytes};
use futures::{StreamExt, stream};
use grpc_support::{Agent, hello, hub};
use prost::Message as _;
use switchyard_proto::agent::v1::{AgentMessage, agent_message::Message};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The most that this process ever held, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// As many empty messages of a list as 4 MiB hold, in field `outer`.
fn flood(outer: u8, list: u8) -> Bytes {
    let items = [list << 3 | 2, 0].repeat(2 * 1024 * 1024 - 16);
    let mut bytes = vec![outer << 3 | 2];
    prost::encoding::encode_varint(items.len() as u64, &mut bytes);
    bytes.extend(items);
    bytes.into()
}

#[tokio::test]
async fn four_mebibytes_of_empty_parts_are_refused_and_never_become_a_gigabyte() {
    let hub = hub().await;
    let greeting: Bytes = AgentMessage { seq: 0, message: Some(Message::Hello(hello("blue"))) }.encode_to_vec().into();
    let agents = "/switchyard.agent.v1.AgentService/Session";
    let policies = "/switchyard.agent.v1.PolicySourceService/SyncPolicies";
    let cases = [
        (agents, vec![flood(4, 2)]),
        (agents, vec![flood(8, 1)]),
        (agents, vec![greeting.clone(), flood(4, 2)]),
        (agents, vec![greeting, flood(4, 3)]),
        (policies, vec![flood(4, 1)]),
        (policies, vec![flood(4, 2)]),
    ];
    let before = peak();
    for (path, messages) in cases {
        let what = format!("{path} with {} messages", messages.len());
        let mut grpc = Grpc::new(hub.channel.clone());
        grpc.ready().await.unwrap();
        let outbound = Request::new(stream::iter(messages).chain(stream::pending()));
        let answer = grpc.streaming(outbound, path.parse().unwrap(), Raw).await.unwrap();
        let mut inbound = answer.into_inner();
        let status = loop {
            match inbound.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{what}: the hub ended the stream without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::ResourceExhausted, "{what}: {status:?}");
        assert!(status.message().contains("smaller messages"), "{what}: {status:?}");
    }
    let grown = peak().saturating_sub(before);
    // Some buffers of 4 MiB on both sides; each of them decoded would be 200 to 800 MB.
    assert!(grown < 128 * 1024 * 1024, "the process grew by {grown} bytes");
    // The hub goes on.
    Agent::connect(&hub, hello("green")).await.welcome().await;
    hub.stop().await;
}
