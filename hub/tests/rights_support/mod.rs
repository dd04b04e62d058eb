//! Callers of many kinds in tests of rights: calls go into the hub's services behind the gate, within this process, as if a door had
//! let them in with a certificate that it had verified; and any call of the API by its name, with a request that a builder makes.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    io::Write,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use futures::{StreamExt, future::BoxFuture, stream};
use jiff::{Timestamp, ToSpan};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, prost::Message};
use serde_json::Value;
use switchyard_hub::{
    access::AccessSettings,
    door::{PeerCertificate, PeerInfo, RootSet},
};
use switchyard_proto::FILE_DESCRIPTOR_SET;
use tempfile::NamedTempFile;
use tonic::{
    Request, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    service::Routes,
};
use tower::{Service, ServiceExt};

/// Settings of a hub with `--dev` and an access file with this one binding. The file lives as long as what is given back with it.
pub fn bindings(binding: &str) -> (AccessSettings, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "bindings: [{binding}]").unwrap();
    let access_file = Some(file.path().to_owned());
    (AccessSettings { development: true, access_file, ..AccessSettings::default() }, file)
}

/// A way into the services for one peer.
#[derive(Clone)]
pub struct Port {
    routes: Routes,
    peer: PeerInfo,
}

impl Port {
    /// For somebody without any proof.
    pub fn nobody(routes: Routes) -> Self {
        let address = "192.0.2.7:4711".parse().unwrap();
        Self { routes, peer: PeerInfo { address, encrypted: true, certificate: None } }
    }

    /// For a caller with a certificate of this common name.
    pub fn caller(routes: Routes, name: &str) -> Self {
        Self::with(routes, RootSet::Callers, Some(name), &[])
    }

    /// For the agent of a cluster.
    pub fn agent(routes: Routes, cluster: &str) -> Self {
        Self::with(routes, RootSet::Agents, None, &[&format!("spiffe://switchyard/cluster/{cluster}")])
    }

    fn with(routes: Routes, set: RootSet, name: Option<&str>, uris: &[&str]) -> Self {
        let who = name.or(uris.first().copied()).unwrap_or_default().to_owned();
        let certificate = PeerCertificate {
            set,
            fingerprint: switchyard_hub::door::peer::fingerprint(who.as_bytes()),
            common_name: name.map(str::to_owned),
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            serial: "0badcafe".to_owned(),
            not_after: Timestamp::now() + 1.hour(),
            authority: (set == RootSet::Agents).then(|| "test".to_owned()),
        };
        let nobody = Self::nobody(routes);
        Self { peer: PeerInfo { certificate: Some(Arc::new(certificate)), ..nobody.peer }, ..nobody }
    }
}

impl Service<http::Request<Body>> for Port {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        let routes = self.routes.clone();
        Box::pin(async move { Ok(routes.oneshot(request).await.unwrap_or_else(|never| match never {})) })
    }
}

/// Messages as their octets.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Raw
    }

    fn decoder(&mut self) -> Self {
        Raw
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

/// Every method of every service of the .proto files.
pub fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// `package.Service/Method`.
pub fn name(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().full_name(), method.name())
}

/// Calls a method with one message of this JSON; the first answer as JSON, or the status.
pub async fn call(port: &Port, method: &MethodDescriptor, request: Value) -> Result<Value, Status> {
    let message = DynamicMessage::deserialize(method.input(), request)
        .unwrap_or_else(|error| panic!("{}: {error}", name(method)));
    let path = format!("/{}", name(method)).parse().unwrap();
    let mut client = Grpc::new(port.clone());
    client.ready().await.unwrap_or_else(|never| match never {});
    // The client's half stays open, as an agent's does.
    let sent = stream::iter([Bytes::from(message.encode_to_vec())]);
    let answer = if method.is_client_streaming() {
        client.streaming(Request::new(sent.chain(stream::pending())), path, Raw).await?
    } else {
        client.streaming(Request::new(sent), path, Raw).await?
    };
    let mut answers = answer.into_inner();
    match answers.message().await? {
        Some(octets) => {
            let message = DynamicMessage::decode(method.output(), octets).unwrap();
            Ok(serde_json::to_value(&message).unwrap())
        }
        None => Ok(Value::Null),
    }
}
