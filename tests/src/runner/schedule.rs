//! Which job comes next. Pure: it is told what ended and says what may begin.
//!
//! Three lanes. Jobs that wait share a number of slots, as many each as it runs tests at a time; the longest begin first, so that
//! none of them is left over at the end. Jobs that compute go one after another beside them, at a low priority, and use what the
//! waiting ones leave of the processors. Those that measure come at the end, each with the machine for itself.

use super::{
    job::Job,
    manner::{Lane, Manner},
};

/// A job that has not begun.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// What is run.
    pub job: Job,
    /// How.
    pub manner: Manner,
    /// How long it took the last time, or is thought to take.
    pub seconds: f64,
}

/// What has not begun, and what runs.
#[derive(Debug)]
pub struct Schedule {
    /// The longest first, those that measure last.
    waiting: Vec<Waiting>,
    /// Names of those that have begun.
    running: Vec<(String, Manner)>,
    slots: usize,
}

impl Schedule {
    /// With this many slots.
    pub fn new(mut waiting: Vec<Waiting>, slots: usize) -> Self {
        let measures = |waiting: &Waiting| waiting.manner.lane == Lane::Measuring;
        waiting.sort_by(|a, b| {
            let longest = b.seconds.total_cmp(&a.seconds);
            measures(a).cmp(&measures(b)).then(longest).then_with(|| a.job.name.cmp(&b.job.name))
        });
        Self { waiting, running: Vec::new(), slots }
    }

    /// A job that may begin now.
    pub fn next(&mut self) -> Option<(Job, Manner)> {
        let runs = |lane| self.running.iter().any(|(_, manner)| manner.lane == lane);
        let (computing, measuring) = (runs(Lane::Computing), runs(Lane::Measuring));
        let alone = self.running.is_empty();
        let waits = self.running.iter().filter(|(_, manner)| manner.lane == Lane::Waiting);
        let taken: usize = waits.map(|(_, manner)| manner.threads).sum();
        let may_begin = |waiting: &Waiting| match waiting.manner.lane {
            Lane::Measuring => alone,
            Lane::Computing => !measuring && !computing,
            // One that is wider than all slots begins when no other has any.
            Lane::Waiting => !measuring && (taken == 0 || taken + waiting.manner.threads <= self.slots),
        };
        let place = self.waiting.iter().position(may_begin)?;
        let Waiting { job, manner, .. } = self.waiting.remove(place);
        self.running.push((job.name.clone(), manner));
        Some((job, manner))
    }

    /// A job has ended.
    pub fn ended(&mut self, name: &str) {
        self.running.retain(|(running, _)| running != name);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::binaries::Binary, *};

    fn waiting(name: &str, lane: Lane, threads: usize, seconds: f64) -> Waiting {
        let binary = Binary { name: name.to_owned(), executable: "/x".into(), package: "/w".into() };
        Waiting { job: Job::from(binary), manner: Manner { lane, threads, seconds }, seconds }
    }

    fn begin(schedule: &mut Schedule) -> Vec<String> {
        std::iter::from_fn(|| schedule.next().map(|(job, _)| job.name)).collect()
    }

    #[test]
    fn the_longest_begin_first_and_smaller_ones_fill_what_is_left() {
        let jobs = vec![
            waiting("short", Lane::Waiting, 2, 1.0),
            waiting("wide", Lane::Waiting, 4, 50.0),
            waiting("long", Lane::Waiting, 4, 100.0),
        ];
        let mut schedule = Schedule::new(jobs, 6);
        assert_eq!(begin(&mut schedule), ["long", "short"], "the wide one does not fit beside the long one");
        schedule.ended("long");
        assert_eq!(begin(&mut schedule), ["wide"]);
    }

    #[test]
    fn one_job_computes_at_a_time_and_takes_no_slot() {
        let jobs = vec![
            waiting("simulate", Lane::Computing, 2, 60.0),
            waiting("plan", Lane::Computing, 2, 30.0),
            waiting("scenarios", Lane::Waiting, 4, 90.0),
        ];
        let mut schedule = Schedule::new(jobs, 4);
        assert_eq!(begin(&mut schedule), ["scenarios", "simulate"]);
        schedule.ended("scenarios");
        assert_eq!(begin(&mut schedule), Vec::<String>::new());
        schedule.ended("simulate");
        assert_eq!(begin(&mut schedule), ["plan"]);
    }

    #[test]
    fn jobs_that_measure_come_last_and_alone() {
        let jobs = vec![
            waiting("chaos", Lane::Measuring, 3, 900.0),
            waiting("loss", Lane::Measuring, 3, 90.0),
            waiting("simulate", Lane::Computing, 2, 60.0),
            waiting("short", Lane::Waiting, 1, 1.0),
        ];
        let mut schedule = Schedule::new(jobs, 8);
        assert_eq!(begin(&mut schedule), ["simulate", "short"]);
        schedule.ended("short");
        assert_eq!(begin(&mut schedule), Vec::<String>::new());
        schedule.ended("simulate");
        assert_eq!(begin(&mut schedule), ["chaos"]);
        schedule.ended("chaos");
        assert_eq!(begin(&mut schedule), ["loss"]);
    }

    #[test]
    fn one_that_is_wider_than_all_slots_runs_alone() {
        let jobs = vec![waiting("wide", Lane::Waiting, 8, 9.0), waiting("other", Lane::Waiting, 2, 1.0)];
        let mut schedule = Schedule::new(jobs, 4);
        assert_eq!(begin(&mut schedule), ["wide"]);
        schedule.ended("wide");
        assert_eq!(begin(&mut schedule), ["other"]);
    }

    #[test]
    fn jobs_of_the_same_length_come_by_name() {
        let jobs = vec![waiting("b", Lane::Waiting, 1, 1.0), waiting("a", Lane::Waiting, 1, 1.0)];
        assert_eq!(begin(&mut Schedule::new(jobs, 2)), ["a", "b"]);
    }
}
