//! The API by its descriptor: every method, messages that are filled in field by field, and bytes as they are. What is sent here need
//! not be what a client would ever make. Knows nothing of what a method does.

use std::{convert::Infallible, time::Duration};

use http::{Request, uri::PathAndQuery};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor, Value,
    prost::{
        Message,
        bytes::{Buf, BufMut},
    },
};
use tonic::{
    Status,
    body::Body,
    client::{Grpc, GrpcService},
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Every answer, and the end of every stream whose sender has ended, comes within it.
const PATIENCE: Duration = Duration::from_secs(20);

/// All methods of the packages that begin so.
pub fn methods(package: &str) -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(switchyard_proto::FILE_DESCRIPTOR_SET).expect("the descriptors of the API");
    let services: Vec<_> = pool.services().filter(|service| service.full_name().starts_with(package)).collect();
    services.iter().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// The path of a method.
pub fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Where a text may stand in a message: numbers of fields from the outside in; in a map 1 is the key and 2 the value.
pub type Place = Vec<u32>;

/// All of them.
pub fn places(message: &MessageDescriptor) -> Vec<Place> {
    let mut found = Vec::new();
    for field in message.fields() {
        let inner = match field.kind() {
            Kind::String => vec![Vec::new()],
            // Texts of ours only: a timestamp has none.
            Kind::Message(message) if !message.full_name().starts_with("google.") => places(&message),
            _ => Vec::new(),
        };
        found.extend(inner.into_iter().map(|rest| [vec![field.number()], rest].concat()));
    }
    found
}

/// What stands in the fields that are not tried.
#[derive(Clone, Copy)]
pub struct Others<'a> {
    /// In a field with one value: a text, a number, a word; none leaves it out.
    pub plain: &'a dyn Fn(&FieldDescriptor) -> Option<Value>,
    /// Names of fields with a whole message or map that are left out.
    pub left_out: &'a [&'a str],
}

/// A message with something in every field, and this text in this place. Of several fields of which one may be set, it is the one on
/// the way to the place, or the first.
pub fn filled(message: &MessageDescriptor, place: &[u32], text: &str, others: Others<'_>) -> DynamicMessage {
    let mut made = DynamicMessage::new(message.clone());
    for field in message.fields() {
        let on_the_way = place.first() == Some(&field.number());
        if !on_the_way && others.left_out.contains(&field.name()) {
            continue;
        }
        if let Some(choice) = field.containing_oneof() {
            let chosen = choice.fields().find(|one| place.first() == Some(&one.number())).or(choice.fields().next());
            if chosen.is_some_and(|chosen| chosen.number() != field.number()) {
                continue;
            }
        }
        let rest = if on_the_way { &place[1..] } else { &[] };
        let value = if on_the_way && rest.is_empty() {
            Some(Value::String(text.to_owned()))
        } else {
            match field.kind() {
                Kind::Message(entry) if field.is_map() => {
                    let entry = filled(&entry, rest, text, others);
                    let key = entry.get_field_by_number(1).expect("a map has keys").into_owned();
                    let value = entry.get_field_by_number(2).expect("a map has values").into_owned();
                    let Value::String(key) = key else { continue };
                    made.set_field(&field, Value::Map([(MapKey::String(key), value)].into()));
                    continue;
                }
                Kind::Message(inner) if inner.full_name().starts_with("google.") => None,
                Kind::Message(inner) => Some(Value::Message(filled(&inner, rest, text, others))),
                _ => (others.plain)(&field),
            }
        };
        if let Some(value) = value {
            made.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
        }
    }
    made
}

/// Bytes of a message that has nothing but so many bytes in a field that nobody knows.
pub fn ballast(bytes: usize) -> Vec<u8> {
    // Field 15000, which has its length before it.
    let mut message = vec![0xc2, 0xa9, 0x07];
    let mut length = bytes;
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.resize(message.len() + bytes, b'x');
    message
}

/// Bytes in, and nothing kept of what comes out.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// Sends these messages to a method of any kind and waits for how it ends. A stream of the hub's alone is not read: that it opened is
/// the answer.
pub async fn ask(channel: &Channel, method: &MethodDescriptor, messages: Vec<Vec<u8>>) -> Result<(), Status> {
    let mut grpc =
        Grpc::new(channel.clone()).max_encoding_message_size(usize::MAX).max_decoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let way: PathAndQuery = path(method).parse().expect("a path");
    let asked = async {
        let request = tonic::Request::new(tokio_stream::iter(messages));
        let mut stream = grpc.streaming(request, way, Raw).await?.into_inner();
        if method.is_server_streaming() && !method.is_client_streaming() {
            return Ok(());
        }
        while stream.message().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{}: no answer", path(method)))
}

/// How a call was answered whose message was announced with this length and never finished: all of its bytes but one are sent. The
/// code of gRPC, none when the connection ended.
pub async fn unfinished(mut channel: Channel, path: &str, token: Option<&str>, length: usize) -> Option<i32> {
    let length_bytes = u32::try_from(length).expect("a length of four bytes").to_be_bytes();
    let header = Bytes::from([&[0], &length_bytes[..]].concat());
    let pieces = std::iter::repeat_n(Bytes::from_static(&[b'x'; 16 * 1024]), (length - 1) / (16 * 1024));
    let rest = Bytes::from(vec![b'x'; (length - 1) % (16 * 1024)]);
    let sent = std::iter::once(header).chain(pieces).chain([rest]).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    // And then it is silent, for as long as it may.
    let body = StreamBody::new(tokio_stream::StreamExt::chain(tokio_stream::iter(sent), tokio_stream::pending()));
    let mut request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::new(body)).expect("a request");
    let answered = async {
        std::future::poll_fn(|context| GrpcService::<Body>::poll_ready(&mut channel, context)).await.ok()?;
        let mut answer = channel.call(request).await.ok()?;
        if !answer.headers().contains_key("grpc-status") {
            use http_body_util::BodyExt;
            let trailers = loop {
                match answer.body_mut().frame().await?.ok()?.into_trailers() {
                    Ok(trailers) => break trailers,
                    Err(_data) => {}
                }
            };
            return trailers.get("grpc-status")?.to_str().ok()?.parse().ok();
        }
        answer.headers().get("grpc-status")?.to_str().ok()?.parse().ok()
    };
    answered.await
}

/// A message as it goes over the wire.
pub fn bytes(message: &DynamicMessage) -> Vec<u8> {
    message.encode_to_vec()
}
