//! Two agents with the identity of one cluster: a rolling update has them for some seconds, a copied Secret or a cluster that was
//! cloned from a backup for ever. They are told apart by the id of the process. The one that the hub sees for the first time takes
//! over, since updates bring new processes; one that was relieved does not come back while its successor lives, so that the two do not
//! take turns and the targets of a cluster do not flap between what two agents see.

use std::fmt;

/// Relieved processes that are remembered for a cluster. An update relieves one; more than these within the life of a successor is
/// nothing that an update does.
pub const MOST_RELIEVED: usize = 16;

/// What is known of a cluster's agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seats<Id> {
    /// The process that holds the cluster, or held it last.
    pub present: Option<Id>,
    /// True while it holds it and its heartbeat is young.
    pub present_lives: bool,
    /// Those that were relieved, the last one at the end.
    pub relieved: Vec<Id>,
}

/// Whether a process gets the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn<Id> {
    /// It does; these are the relieved ones from now on.
    Seated {
        /// To be remembered, at most [`MOST_RELIEVED`].
        relieved: Vec<Id>,
        /// The living process that loses the cluster by it.
        relieves: Option<Id>,
    },
    /// It does not: it was relieved by the one that lives.
    Refused {
        /// Who holds the cluster.
        by: Id,
    },
}

/// Decides for a process that opens a session.
pub fn turn<Id: Clone + PartialEq + fmt::Debug>(seats: &Seats<Id>, comer: &Id) -> Turn<Id> {
    let mut relieved = seats.relieved.clone();
    match &seats.present {
        Some(present) if present != comer => {
            if seats.present_lives && relieved.contains(comer) {
                return Turn::Refused { by: present.clone() };
            }
            relieved.retain(|id| id != comer && id != present);
            relieved.push(present.clone());
            let over = relieved.len().saturating_sub(MOST_RELIEVED);
            relieved.drain(..over);
            Turn::Seated { relieved, relieves: seats.present_lives.then(|| present.clone()) }
        }
        _ => {
            relieved.retain(|id| id != comer);
            Turn::Seated { relieved, relieves: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(seats: &mut Seats<u32>, comer: u32) -> Turn<u32> {
        let turn = turn(seats, &comer);
        if let Turn::Seated { relieved, .. } = &turn {
            *seats = Seats { present: Some(comer), present_lives: true, relieved: relieved.clone() };
        }
        turn
    }

    fn empty() -> Seats<u32> {
        Seats { present: None, present_lives: false, relieved: Vec::new() }
    }

    #[test]
    fn a_rolling_update_hands_over_once() {
        let mut seats = empty();
        assert_eq!(come(&mut seats, 1), Turn::Seated { relieved: vec![], relieves: None });
        assert_eq!(come(&mut seats, 2), Turn::Seated { relieved: vec![1], relieves: Some(1) });
        assert_eq!(come(&mut seats, 1), Turn::Refused { by: 2 });
        assert_eq!(come(&mut seats, 2), Turn::Seated { relieved: vec![1], relieves: None }, "a connection made anew");
    }

    #[test]
    fn the_relieved_one_comes_back_when_its_successor_is_silent() {
        let mut seats = empty();
        come(&mut seats, 1);
        come(&mut seats, 2);
        seats.present_lives = false;
        assert_eq!(come(&mut seats, 1), Turn::Seated { relieved: vec![2], relieves: None });
        assert_eq!(come(&mut seats, 2), Turn::Refused { by: 1 });
    }

    #[test]
    fn two_that_come_in_turns_for_ever_change_the_holder_once() {
        let mut seats = empty();
        let mut changes = 0;
        for i in 0..1000 {
            let before = seats.present;
            come(&mut seats, 1 + i % 2);
            changes += u32::from(seats.present != before);
        }
        assert_eq!(changes, 2, "nobody, 1, 2");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seats = empty();
        for comer in 0..1000 {
            come(&mut seats, comer);
            assert!(seats.relieved.len() <= MOST_RELIEVED);
        }
    }
}
