//! Measuring against what really measures: a real Prometheus. Needs `scripts/prometheus.sh`, and fails without it.

mod guide;
mod prometheus;
mod shifts;
mod traffic;
