//! The binomial interval that a share of requests is judged by. Pure.

/// The numbers of hits in `n` trials, each a hit with probability `p`, that leave at most `tail` of the probability outside on
/// each side: the exact interval, summed up from the distribution itself.
pub fn binomial_interval(n: u32, p: f64, tail: f64) -> (u32, u32) {
    let masses = binomial(n, p);
    let edge = |masses: &mut dyn Iterator<Item = (u32, f64)>| {
        let mut sum = 0.0;
        for (k, mass) in masses {
            sum += mass;
            if sum > tail {
                return k;
            }
        }
        n
    };
    let indexed = || (0..=n).zip(masses.iter().copied());
    let low = edge(&mut indexed());
    let high = edge(&mut indexed().collect::<Vec<_>>().into_iter().rev());
    (low, high)
}

/// The probability of 0 to `n` hits. In logarithms, since `p^n` has no place in a float.
fn binomial(n: u32, p: f64) -> Vec<f64> {
    let mut log_choose = 0.0_f64;
    let mut masses = Vec::with_capacity(n as usize + 1);
    for k in 0..=n {
        let log = log_choose + f64::from(k) * p.ln() + f64::from(n - k) * (1.0 - p).ln();
        masses.push(log.exp());
        log_choose += f64::from(n - k).ln() - f64::from(k + 1).ln();
    }
    masses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fair_coin_thrown_ten_times_shows_two_to_eight_heads_in_95_of_100_cases() {
        // P(X <= 1) = 11/1024 = 0.0107, P(X <= 2) = 56/1024 = 0.0547.
        assert_eq!(binomial_interval(10, 0.5, 0.025), (2, 8));
    }

    #[test]
    fn the_masses_sum_to_one_and_the_interval_holds_the_mean() {
        for (n, p) in [(5_000, 0.1), (5_000, 0.9), (1_000, 0.5), (7, 0.01)] {
            let sum: f64 = binomial(n, p).iter().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{n} {p}: {sum}");
            let (low, high) = binomial_interval(n, p, 0.0005);
            let mean = f64::from(n) * p;
            assert!(f64::from(low) <= mean && mean <= f64::from(high), "{n} {p}: {low} {high}");
        }
    }

    #[test]
    fn a_tenth_of_five_thousand_lies_within_the_interval_of_the_normal_approximation() {
        // Mean 500, standard deviation 21.2; 99.9 % are 3.29 of them: 430.2 to 569.8, a little skewed in truth.
        let (low, high) = binomial_interval(5_000, 0.1, 0.0005);
        assert!((429..=433).contains(&low) && (569..=573).contains(&high), "{low} {high}");
    }
}
