//! How messages are read from a stream, by the hub and by its callers: weighed first (`walk`), so that none takes more memory than it
//! may, and then decoded by prost. What is written is prost's alone.

use std::marker::PhantomData;

use prost::{
    Message,
    bytes::{Buf, Bytes},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

use crate::walk::{self, Shaped};

/// The codec of all services.
#[derive(Clone, Debug)]
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Shaped + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Weighs, then decodes.
#[derive(Clone, Debug)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default + Shaped> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // In one piece, which costs no copy: tonic reads a message into one buffer.
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        decode(bytes).map(Some)
    }
}

/// Reads one message.
///
/// # Errors
/// RESOURCE_EXHAUSTED for one that would take too much memory, INTERNAL with prost's words for bytes that are no message.
pub fn decode<U: Message + Default + Shaped>(bytes: Bytes) -> Result<U, Status> {
    let length = bytes.len();
    walk::weigh::<U>(&bytes).map_err(|walk::TooMuch { most }| {
        Status::resource_exhausted(format!(
            "a message of {length} bytes would take more than {most} bytes of memory; send more and smaller messages"
        ))
    })?;
    // As tonic's own codec has it.
    U::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}
