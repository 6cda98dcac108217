//! Several runs of one thing.

use serde::{Deserialize, Serialize};

/// The runs' values in their order, and what they come to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spread {
    pub runs: Vec<f64>,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// Standard deviation of the runs; 0 for a single one.
    pub sd: f64,
}

impl Spread {
    pub fn of(runs: Vec<f64>) -> Self {
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let count = runs.len() as f64;
        let mean = runs.iter().sum::<f64>() / count;
        let squares = runs.iter().map(|run| (run - mean).powi(2)).sum::<f64>();
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Self { median, min, max, mean, sd: (squares / (count - 1.0).max(1.0)).sqrt(), runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_deviations() {
        let of = |runs: &[f64]| Spread::of(runs.to_vec());
        let four = of(&[4.0, 1.0, 2.0, 3.0]);
        assert_eq!((four.median, four.min, four.max, four.mean), (2.5, 1.0, 4.0, 2.5));
        assert!((four.sd - (5f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(four.runs, [4.0, 1.0, 2.0, 3.0]);
        let one = of(&[7.0]);
        assert_eq!((one.median, one.sd), (7.0, 0.0));
        assert_eq!(of(&[3.0, 9.0, 5.0]).median, 5.0);
        assert_eq!(of(&[]), Spread::default());
    }
}
