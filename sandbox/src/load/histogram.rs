//! Latencies in a fixed number of counters, exact to about 3 %: 32 buckets to each doubling. Pure.

/// Sub-buckets of a doubling, as a power of two.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// 40 doublings of a microsecond are twelve days.
const BUCKETS: usize = 40 * SUB;

/// Counts of durations in microseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

fn bucket(micros: u64) -> usize {
    let value = micros.max(1);
    let exponent = value.ilog2();
    let index = if exponent < SUB_BITS {
        value
    } else {
        let sub = (value >> (exponent - SUB_BITS)) & (SUB as u64 - 1);
        (u64::from(exponent - SUB_BITS) + 1) * SUB as u64 + sub
    };
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let (exponent, sub) = (index / SUB - 1, (index % SUB) as u64);
    ((SUB as u64 + sub + 1) << exponent) - 1
}

impl Histogram {
    pub fn record(&mut self, micros: u64) {
        self.counts[bucket(micros)] += 1;
        self.total += 1;
        self.max = self.max.max(micros);
    }

    /// The value in milliseconds below which `percent` of the records lie; 0 without records.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let wanted = (percent / 100.0 * self.total as f64).ceil().max(1.0);
        let mut seen = 0_u64;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if self.total > 0 && seen as f64 >= wanted {
                return upper(index).min(self.max) as f64 / 1_000.0;
            }
        }
        0.0
    }

    pub fn max_ms(&self) -> f64 {
        self.max as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_value_within_three_percent() {
        for value in (1..2_000_000_u64).step_by(997).chain([1, 31, 32, 33, 63, 64]) {
            let shown = upper(bucket(value));
            assert!(shown >= value && (shown - value) * 32 <= value, "{value} is shown as {shown}");
        }
    }

    #[test]
    fn percentiles_agree_with_a_sorted_list() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile_ms(99.0), 0.0);
        let values: Vec<u64> = (1..=1_000).map(|n| n * 100).collect();
        values.iter().for_each(|v| histogram.record(*v));
        for percent in [50.0, 90.0, 99.0, 100.0] {
            let exact = values[(percent / 100.0 * 1_000.0) as usize - 1] as f64 / 1_000.0;
            let shown = histogram.percentile_ms(percent);
            assert!((shown - exact).abs() <= exact * 0.04, "p{percent}: {shown} instead of {exact}");
        }
        assert_eq!(histogram.max_ms(), 100.0);
    }
}
