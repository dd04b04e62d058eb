//! The pages of the audit log. Unlike other lists it grows for ever, so there is no number of pages that is too many; but the ids of
//! its entries go one way, and a hub whose pages do not is not followed for ever.

use crate::error::{Exit, Failure};

/// Where the reading of the log stands.
pub struct AuditPages {
    pub what: &'static str,
    oldest_first: bool,
    token: Option<String>,
    /// The id that the last page ended with.
    last: Option<u64>,
}

impl AuditPages {
    pub fn new(what: &'static str, oldest_first: bool) -> Self {
        Self { what, oldest_first, token: Some(String::new()), last: None }
    }

    /// The token of the page to ask for. None: there are no more.
    pub fn next_token(&mut self) -> Option<String> {
        self.token.take()
    }

    /// Whether the hub has more than what came.
    pub fn has_more(&self) -> bool {
        self.token.is_some()
    }

    /// A page came, with the id of its last entry.
    pub fn came(&mut self, next: String, last: Option<u64>) -> Result<(), Failure> {
        if next.is_empty() {
            return Ok(());
        }
        let goes_on = match (self.last, last) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(last)) => (last > before) == self.oldest_first && last != before,
        };
        if !goes_on {
            let before = self.last.map_or("the beginning".to_owned(), |id| format!("entry {id}"));
            let came = last.map_or("without an entry".to_owned(), |id| format!("that ends with entry {id}"));
            let why = format!("the hub's pages do not end: after {before} came one {came}, and it has more");
            return Err(Failure::new(Exit::Internal, self.what, why, "look into the hub's log"));
        }
        (self.last, self.token) = (last, Some(next));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads pages that end with these ids.
    fn read(oldest_first: bool, ends: impl IntoIterator<Item = Option<u64>>) -> Result<usize, Exit> {
        let (mut pages, mut count) = (AuditPages::new("x", oldest_first), 0);
        for end in ends {
            pages.next_token().unwrap();
            pages.came(format!("after page {count}"), end).map_err(|failure| failure.exit)?;
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn a_log_is_read_however_long_it_is() {
        assert_eq!(read(true, (1..=50_000).map(|page| Some(page * 30))), Ok(50_000));
        assert_eq!(read(false, (1..=50_000).rev().map(|page| Some(page * 30))), Ok(50_000));
        let mut pages = AuditPages::new("x", true);
        pages.next_token().unwrap();
        pages.came(String::new(), Some(7)).unwrap();
        assert_eq!((pages.has_more(), pages.next_token()), (false, None));
    }

    #[test]
    fn pages_that_turn_round_stand_still_or_are_empty_are_an_error_and_not_an_endless_loop() {
        for ends in [[Some(3), Some(3)], [Some(3), Some(2)], [Some(3), None]] {
            assert_eq!(read(true, ends), Err(Exit::Internal), "{ends:?}");
        }
        for ends in [[Some(3), Some(3)], [Some(3), Some(4)], [Some(3), None]] {
            assert_eq!(read(false, ends), Err(Exit::Internal), "{ends:?}");
        }
        assert_eq!(read(true, [None]), Err(Exit::Internal));
    }
}
