//! Wrong on purpose: what `scripts/fuzz.sh` has to find within seconds, else it does not measure coverage or comparisons any more and
//! would pass whatever is wrong elsewhere. Nobody meets eight bytes by chance: one of 2^64 inputs has them.

/// Panics for exactly one beginning. The first four bytes are found one by one by coverage, the next four at once by the value that
/// they are compared with.
pub fn run(data: &[u8]) -> bool {
    let [b'y', b'a', b'r', b'd', a, b, c, d, ..] = *data else { return false };
    assert!(u32::from_be_bytes([a, b, c, d]) != 0x5157_4954, "the planted fault was found");
    true
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_planted_fault_is_there_and_nowhere_else() {
        assert!(std::panic::catch_unwind(|| super::run(b"yardQWIT and more")).is_err());
        for other in [&b""[..], b"yard", b"yardQWIS", b"yarfQWIT", b"yardTIWQ"] {
            super::run(other);
        }
    }
}
