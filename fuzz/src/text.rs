//! What holds for every sentence that a caller, a log or a terminal gets to see.

/// Characters of one refusal. A violation has a value of 256 characters, written with escapes of up to ten, and words around it.
pub const MOST_SENTENCE: usize = 16 * 1024;

/// A sentence is bounded, and one line of visible characters: what comes from outside forges no line of a log and no colour of a
/// terminal.
pub fn is_one_sound_line(what: &str, sentence: &str) {
    assert!(sentence.len() <= MOST_SENTENCE, "{what}: a message of {} bytes", sentence.len());
    if let Some(c) = sentence.chars().find(|c| c.is_control()) {
        panic!("{what}: a message holds {c:?}: {sentence:?}");
    }
}
