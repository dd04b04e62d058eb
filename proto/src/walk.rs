//! What a message will take in memory, found out from its bytes before it is decoded: two bytes on the wire can become a message of
//! some hundred in a list, so that 4 MiB become near a gigabyte. The walk follows the fields of the message's own definition
//! (`build.rs` writes the table), so it weighs what prost would make of the bytes and nothing else. It allocates nothing. Pure.
//!
//! Where the bytes are no message the walk stops without a word: prost stops at the same place, with the right one.

/// Bytes in memory that any message may take, as the walk counts them. The largest that is sent is a report of 500 pods with 64 ports,
/// 64 conditions, 32 gates and 16 interfaces each (the bounds of the agent): some 20 kB a pod, 10 MB in all. Lists grow by doubling, so
/// that up to four times as much may be held for the moment of decoding.
const MOST: usize = 16 * 1024 * 1024;
/// Longer messages may take so many times their length. Only answers of the hub are longer than 4 MiB.
const TIMES: usize = 4;
/// What an allocation costs beside its bytes.
const ALLOCATION: usize = 16;
/// A text within a list, beside its bytes.
const TEXT: usize = size_of::<String>();
/// Messages within one another: more than prost goes down.
const MOST_DEPTH: u32 = 128;

/// A message that would take too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    /// Bytes that it may take.
    pub most: usize,
}

/// What a message is made of.
struct Shape {
    /// Bytes of its Rust type.
    size: usize,
    /// Number and kind of each field that takes memory for itself, by ascending place in the definition.
    fields: &'static [(u32, Part)],
}

#[derive(Clone, Copy)]
enum Part {
    /// A message, by its place in the table; weighed each time that it comes.
    Message(usize),
    /// A text.
    Text,
    /// Texts in a list.
    Texts,
}

/// A message that the table knows.
pub trait Shaped {
    /// Its place in the table.
    const SHAPE: usize;
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// Weighs the bytes of a message.
///
/// # Errors
/// [`TooMuch`] when it would take more than it may.
pub fn weigh<M: Shaped>(bytes: &[u8]) -> Result<usize, TooMuch> {
    let most = MOST.max(bytes.len().saturating_mul(TIMES));
    let mut walk = Walk { weight: 0, most };
    match walk.message(M::SHAPE, bytes, 0) {
        Ok(()) | Err(Stop::NoMessage) => Ok(walk.weight),
        Err(Stop::TooMuch) => Err(TooMuch { most }),
    }
}

enum Stop {
    TooMuch,
    /// Prost says what is wrong.
    NoMessage,
}

struct Walk {
    weight: usize,
    most: usize,
}

impl Walk {
    fn add(&mut self, bytes: usize) -> Result<(), Stop> {
        self.weight = self.weight.saturating_add(bytes);
        if self.weight > self.most { Err(Stop::TooMuch) } else { Ok(()) }
    }

    fn message(&mut self, shape: usize, mut rest: &[u8], depth: u32) -> Result<(), Stop> {
        let shape = SHAPES.get(shape).filter(|_| depth < MOST_DEPTH).ok_or(Stop::NoMessage)?;
        self.add(shape.size)?;
        while !rest.is_empty() {
            let key = u32::try_from(varint(&mut rest)?).map_err(|_| Stop::NoMessage)?;
            let number = key >> 3;
            match key & 7 {
                0 => drop(varint(&mut rest)?),
                1 => take(&mut rest, 8)?,
                2 => {
                    let length = usize::try_from(varint(&mut rest)?).map_err(|_| Stop::NoMessage)?;
                    // Prost, too, looks at the length first.
                    let inner = rest.get(..length).ok_or(Stop::NoMessage)?;
                    match shape.fields.iter().find(|(known, _)| *known == number).map(|(_, part)| *part) {
                        Some(Part::Message(of)) => self.message(of, inner, depth + 1)?,
                        Some(Part::Text) => self.add(inner.len() + ALLOCATION)?,
                        Some(Part::Texts) => self.add(inner.len() + ALLOCATION + TEXT)?,
                        None => {}
                    }
                    rest = &rest[length..];
                }
                // What stands in a group is known to nobody. Looked at as if it stood beside it, it weighs too much rather than too little.
                3 | 4 => {}
                5 => take(&mut rest, 4)?,
                _ => return Err(Stop::NoMessage),
            }
        }
        Ok(())
    }
}

fn take(rest: &mut &[u8], count: usize) -> Result<(), Stop> {
    *rest = rest.get(count..).ok_or(Stop::NoMessage)?;
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, Stop> {
    let mut value = 0_u64;
    // Ten bytes of seven bits hold 64.
    for place in 0..10 {
        let (first, others) = rest.split_first().ok_or(Stop::NoMessage)?;
        *rest = others;
        value |= u64::from(first & 0x7f) << (place * 7).min(63);
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Stop::NoMessage)
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
