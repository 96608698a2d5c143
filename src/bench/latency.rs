//! Latencies and their percentiles; medians of repeated runs.

use std::time::Duration;

/// Latencies of one load, each kept: a run has some 100,000.
#[derive(Debug, Clone, Default)]
pub(super) struct Latencies {
    micros: Vec<u64>,
}

impl Latencies {
    /// Adds one.
    pub(super) fn add(&mut self, latency: Duration) {
        self.micros.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds all of `other`.
    pub(super) fn extend(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    /// The latency below which `percent` of them lie, in milliseconds; zero if there are none.
    pub(super) fn percentile_ms(&mut self, percent: f64) -> f64 {
        self.micros.sort_unstable();
        let Some(last) = self.micros.len().checked_sub(1) else { return 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index within the list")]
        let index = (last as f64 * percent / 100.0).round() as usize;
        self.micros[index] as f64 / 1000.0
    }
}

/// The middle one; zero if there are none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// How fast `y` grows with `x` (least squares).
pub(super) fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    if spread > 0.0 { common / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_medians_and_slopes() {
        let mut latencies = Latencies::default();
        assert!(latencies.percentile_ms(50.0).abs() < 1e-9);
        for ms in (0..=100).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        assert!((latencies.percentile_ms(50.0) - 50.0).abs() < 1e-9);
        assert!((latencies.percentile_ms(99.0) - 99.0).abs() < 1e-9);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
        let line: Vec<_> = (0..10).map(|x| (f64::from(x), 3.0 * f64::from(x) + 7.0)).collect();
        assert!((slope(&line) - 3.0).abs() < 1e-9);
        assert!(slope(&[]).abs() < 1e-9);
    }
}
