//! A call of the API within this process: encoded request in, encoded answers out, through the very services that the gRPC port
//! serves, with what is known of the caller's connection. Knows no message.

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderValue, uri::PathAndQuery};
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::AsciiMetadataValue,
    service::Routes,
};

use crate::door::PeerInfo;

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

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

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

/// One call, before it is made.
#[derive(Clone)]
pub struct Call {
    /// The services.
    pub routes: Routes,
    /// Who calls.
    pub peer: PeerInfo,
    /// The header of that name, if there was one.
    pub authorization: Option<HeaderValue>,
    /// `/package.Service/Method`.
    pub path: PathAndQuery,
    /// The encoded request.
    pub message: Bytes,
}

impl Call {
    fn into_parts(self) -> (Grpc<Routes>, Request<Bytes>, PathAndQuery) {
        // Answers were made in this process: a bound on their way through it protects nothing.
        let grpc = Grpc::new(self.routes).max_decoding_message_size(usize::MAX);
        let mut request = Request::new(self.message);
        request.extensions_mut().insert(self.peer);
        let value = self.authorization.and_then(|value| AsciiMetadataValue::try_from(value.as_bytes()).ok());
        if let Some(value) = value {
            request.metadata_mut().insert("authorization", value);
        }
        (grpc, request, self.path)
    }

    /// Makes a call with one answer.
    ///
    /// # Errors
    /// The status of the service.
    pub async fn unary(self) -> Result<Response<Bytes>, Status> {
        let (mut grpc, request, path) = self.into_parts();
        grpc.unary(request, path, Raw).await
    }

    /// Makes a call with a stream of answers.
    ///
    /// # Errors
    /// The status of the service.
    pub async fn streaming(self) -> Result<Response<Streaming<Bytes>>, Status> {
        let (mut grpc, request, path) = self.into_parts();
        grpc.server_streaming(request, path, Raw).await
    }
}
