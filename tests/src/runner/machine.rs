//! How many tests may run at a time on this machine.

/// Tests at a time for each processor, over all binaries. They wait far more than they work, but six worlds keep two processors
/// busy, and beyond that deadlines begin to be missed.
const PER_PROCESSOR: usize = 3;
/// What a test may take, in MiB. Most take a tenth of it; one with two real control planes of Kubernetes a third more.
const MEMORY_OF_ONE: u64 = 1_000;

/// How many, with so many processors and so much free memory in MiB; at least two, so that something can wait for something.
pub fn slots(processors: usize, memory: Option<u64>) -> usize {
    let by_memory = memory.and_then(|memory| usize::try_from(memory / MEMORY_OF_ONE).ok());
    (processors * PER_PROCESSOR).min(by_memory.unwrap_or(usize::MAX)).max(2)
}

/// Memory that programs can still have, in MiB, as Linux estimates it; none where it does not tell.
pub fn free_memory() -> Option<u64> {
    available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib / 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_bounds_what_the_processors_allow() {
        assert_eq!(slots(2, None), 6);
        assert_eq!(slots(2, Some(23_000)), 6);
        assert_eq!(slots(4, Some(7_500)), 7);
        assert_eq!(slots(1, Some(500)), 2);
    }

    #[test]
    fn the_free_memory_is_read_from_what_linux_tells() {
        let text = "MemTotal:       24689764 kB\nMemFree:  100 kB\nMemAvailable:   20480000 kB\n";
        assert_eq!(available(text), Some(20_000));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable: much kB\n"), None);
    }
}
