//! What is told: each job's output when it has ended, at the end the failures once more, the longest jobs, and as the very last
//! line "N passed, N failed". Makes text, prints nothing.

use std::{fmt::Write, time::Duration};

use super::job::Ended;

/// Of a failed job that did not list its failures, such as one that was killed.
const LAST_LINES: usize = 60;
/// How many of the longest jobs are named.
const LONGEST: usize = 8;

/// Adds up what the jobs have said.
#[derive(Debug, Default)]
pub struct Report {
    jobs: usize,
    passed: u64,
    failed: u64,
    ignored: u64,
    failures: Vec<String>,
    times: Vec<(Duration, String)>,
}

/// The number before this word in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn number(line: &str, word: &str) -> u64 {
    let before = line.split([';', '.']).filter_map(|part| part.trim().strip_suffix(word));
    before.filter_map(|number| number.trim().parse::<u64>().ok()).sum()
}

/// The part of the output that tells of failures.
fn failures(output: &str) -> String {
    match output.find("\nfailures:\n") {
        Some(place) => output[place + 1..].to_owned(),
        None => {
            let lines: Vec<&str> = output.lines().collect();
            lines[lines.len().saturating_sub(LAST_LINES)..].join("\n") + "\n"
        }
    }
}

impl Report {
    /// Takes a job that has ended; gives what is to be shown of it.
    pub fn take(&mut self, ended: Ended) -> String {
        let Ended { name, took, fault, output, .. } = ended;
        let results: Vec<&str> = output.lines().filter(|line| line.starts_with("test result: ")).collect();
        let failed: u64 = results.iter().map(|line| number(line, "failed")).sum();
        self.jobs += 1;
        self.passed += results.iter().map(|line| number(line, "passed")).sum::<u64>();
        self.ignored += results.iter().map(|line| number(line, "ignored")).sum::<u64>();
        // One that ends badly without a failed test is one failure all the same: it was killed, or did not compile.
        self.failed += if fault.is_some() { failed.max(1) } else { failed };
        let mut text = format!("\n=== {name} ({:.1} s)\n{output}", took.as_secs_f64());
        if !output.ends_with('\n') {
            text.push('\n');
        }
        if let Some(fault) = &fault {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "=== {name}: {fault}");
            self.failures.push(format!("\n=== failed: {name}: {fault}\n{}", failures(&output)));
        }
        self.times.push((took, name));
        text
    }

    /// Whether everything passed, and something did.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// The end of everything.
    pub fn summary(&self, took: Duration) -> String {
        let mut text = self.failures.concat();
        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_by(|a, b| b.cmp(a));
        let longest = times.iter().take(LONGEST).map(|(took, name)| format!("{name} {} s", took.as_secs()));
        let longest = longest.collect::<Vec<_>>().join(", ");
        let minutes = took.as_secs() / 60;
        let seconds = took.as_secs() % 60;
        let _ = writeln!(text, "\n{} test binaries in {minutes} min {seconds} s, longest {longest}", self.jobs);
        if self.ignored > 0 {
            let _ = writeln!(text, "{} were ignored", self.ignored);
        }
        if self.passed + self.failed == 0 {
            let _ = writeln!(text, "no test was run");
        }
        let _ = writeln!(text, "{} passed, {} failed", self.passed, self.failed);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(name: &str, seconds: u64, fault: Option<&str>, output: &str) -> Ended {
        let (name, fault, output) = (name.to_owned(), fault.map(str::to_owned), output.to_owned());
        Ended { name, whole: true, took: Duration::from_secs(seconds), fault, output }
    }

    fn result(passed: u64, failed: u64, ignored: u64) -> String {
        let word = if failed == 0 { "ok" } else { "FAILED" };
        format!(
            "test result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 4 filtered out; finished in 1.20s\n"
        )
    }

    fn last(report: &Report) -> String {
        report.summary(Duration::from_secs(61)).lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_last_line_is_the_sum_over_all_results_of_all_jobs() {
        let mut report = Report::default();
        report.take(ended("hub", 3, None, &result(80, 0, 0)));
        report.take(ended("doc", 3, None, &(result(2, 0, 0) + &result(5, 0, 0))));
        assert!(report.is_good());
        assert_eq!(last(&report), "87 passed, 0 failed");
    }

    #[test]
    fn output_is_shown_whole_and_failures_are_repeated_at_the_end() {
        let mut report = Report::default();
        let output = format!("test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nit broke\n\n{}", result(1, 1, 0));
        let shown = report.take(ended("hub", 3, Some("it ended with exit status: 101"), &output));
        assert!(shown.contains(&output), "{shown}");
        assert!(!report.is_good());
        let summary = report.summary(Duration::from_secs(3));
        assert!(summary.starts_with("\n=== failed: hub: it ended with exit status: 101\nfailures:\n\n---- a stdout"));
        assert!(!summary.contains("test a ... FAILED"), "only what tells of failures: {summary}");
        assert!(summary.ends_with("\n1 passed, 1 failed\n"), "{summary}");
    }

    #[test]
    fn a_job_that_dies_without_a_result_is_a_failure_with_its_last_lines() {
        let mut report = Report::default();
        report.take(ended("fine", 1, None, &result(3, 0, 0)));
        let lines: String = (0..100).map(|line| format!("line {line}\n")).collect();
        report.take(ended("hub", 3, Some("it ended with signal: 6 (SIGABRT)"), &lines));
        assert!(!report.is_good());
        let summary = report.summary(Duration::from_secs(3));
        assert!(!summary.contains("line 39\n") && summary.contains("line 40\n"), "{summary}");
        assert!(summary.ends_with("\n3 passed, 1 failed\n"), "{summary}");
    }

    #[test]
    fn no_test_at_all_is_not_good() {
        let mut report = Report::default();
        report.take(ended("hub", 1, None, &result(0, 0, 0)));
        assert!(!report.is_good());
        assert_eq!(last(&report), "0 passed, 0 failed");
    }

    #[test]
    fn the_longest_jobs_are_named_and_ignored_tests_are_not_forgotten() {
        let mut report = Report::default();
        report.take(ended("short", 1, None, &result(1, 0, 2)));
        report.take(ended("long", 100, None, &result(1, 0, 0)));
        let summary = report.summary(Duration::from_secs(121));
        assert!(
            summary.contains("2 test binaries in 2 min 1 s, longest long 100 s, short 1 s\n2 were ignored\n"),
            "{summary}"
        );
    }
}
