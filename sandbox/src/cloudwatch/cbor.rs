//! CBOR (RFC 8949) to JSON values, as far as Smithy's RPC v2 protocol needs it: a timestamp (tag 1) becomes its number of seconds.
//! Pure.

use minicbor::{Decoder, data::Type};
use serde_json::{Map, Number, Value};

/// Deeper than any call of CloudWatch.
const MOST_DEPTH: u32 = 24;

/// A body that is not CBOR of the kinds that are used here.
#[derive(Debug, thiserror::Error)]
pub enum CborError {
    #[error("the body is not CBOR")]
    Decode(#[from] minicbor::decode::Error),
    #[error("the body holds {0}, which no call of CloudWatch has")]
    Unexpected(String),
    #[error("the body is nested more than {MOST_DEPTH} deep")]
    Depth,
    #[error("something follows the end of the body")]
    Trailing,
}

/// The one value that a body holds.
pub fn read(body: &[u8]) -> Result<Value, CborError> {
    let mut decoder = Decoder::new(body);
    let value = value(&mut decoder, 0)?;
    if decoder.position() == body.len() { Ok(value) } else { Err(CborError::Trailing) }
}

fn value(decoder: &mut Decoder<'_>, depth: u32) -> Result<Value, CborError> {
    if depth > MOST_DEPTH {
        return Err(CborError::Depth);
    }
    Ok(match decoder.datatype()? {
        Type::Bool => Value::Bool(decoder.bool()?),
        Type::Null => {
            decoder.null()?;
            Value::Null
        }
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder.u64()?.into(),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => decoder.i64()?.into(),
        Type::F16 => number(f64::from(decoder.f16()?))?,
        Type::F32 => number(f64::from(decoder.f32()?))?,
        Type::F64 => number(decoder.f64()?)?,
        Type::String | Type::StringIndef => text(decoder)?.into(),
        Type::Tag => match decoder.tag()?.as_u64() {
            1 => value(decoder, depth + 1)?,
            other => return Err(CborError::Unexpected(format!("tag {other}"))),
        },
        Type::Array | Type::ArrayIndef => {
            let mut items = Vec::new();
            each(decoder, Decoder::array, |decoder| {
                items.push(value(decoder, depth + 1)?);
                Ok(())
            })?;
            items.into()
        }
        Type::Map | Type::MapIndef => {
            let mut map = Map::new();
            each(decoder, Decoder::map, |decoder| {
                let key = text(decoder)?;
                map.insert(key, value(decoder, depth + 1)?);
                Ok(())
            })?;
            map.into()
        }
        other => return Err(CborError::Unexpected(other.to_string())),
    })
}

/// Calls for each item of an array or map, with a length or an end mark. A length that lies ends with the body.
fn each<'b>(
    decoder: &mut Decoder<'b>,
    begin: impl FnOnce(&mut Decoder<'b>) -> Result<Option<u64>, minicbor::decode::Error>,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<(), CborError>,
) -> Result<(), CborError> {
    match begin(decoder)? {
        Some(length) => (0..length).try_for_each(|_| item(decoder)),
        None => {
            while decoder.datatype()? != Type::Break {
                item(decoder)?;
            }
            Ok(decoder.skip()?)
        }
    }
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, CborError> {
    Ok(decoder.str_iter()?.collect::<Result<String, _>>()?)
}

fn number(value: f64) -> Result<Value, CborError> {
    Number::from_f64(value).map(Value::Number).ok_or_else(|| CborError::Unexpected(value.to_string()))
}

#[cfg(test)]
mod tests {
    use minicbor::{Encoder, data::Tag};
    use serde_json::json;

    use super::*;

    #[test]
    fn maps_lists_texts_and_times_are_read_in_both_forms() {
        let mut body = Vec::new();
        let mut encoder = Encoder::new(&mut body);
        encoder.begin_map().unwrap().str("StartTime").unwrap();
        encoder.tag(Tag::new(1)).unwrap().f64(1.5).unwrap();
        encoder.str("Ids").unwrap().array(2).unwrap().str("a").unwrap();
        encoder.begin_str().unwrap().str("b").unwrap().str("c").unwrap().end().unwrap();
        encoder.str("Period").unwrap().u8(60).unwrap().str("Nothing").unwrap().null().unwrap();
        encoder.str("Flag").unwrap().bool(true).unwrap().end().unwrap();
        let wanted = json!({"StartTime": 1.5, "Ids": ["a", "bc"], "Period": 60, "Nothing": null, "Flag": true});
        assert_eq!(read(&body).unwrap(), wanted);
    }

    #[test]
    fn bodies_that_are_cut_nested_too_deep_or_too_long_are_refused() {
        let deep = vec![0x81_u8; 100];
        for body in [&[][..], &[0x81], &[0xa1, 0x61], &[0xff], &[0xf9, 0x7e, 0x00], &[0x00, 0x00], &[0xc2, 0x00], &deep]
        {
            assert!(read(body).is_err(), "{body:?}");
        }
        // A list that claims 2^63 items needs no memory for them.
        assert!(read(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
