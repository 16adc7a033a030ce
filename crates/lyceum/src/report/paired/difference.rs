//! The mean difference between two methods on the same examples, and its significance.

use crate::metrics::mean_stderr;
use crate::report::student::quantile;

/// The mean of differences, and how sure it is.
///
/// ```
/// use lyceum::report::paired::{Difference, Verdict};
///
/// // The same five examples under two methods: every pair differs by about the same.
/// let difference = Difference::paired(&[9., 5., 7., 3., 8.], &[8., 4., 5., 2., 7.]);
/// let difference = difference.expect("as many examples of each");
/// assert_eq!(difference.verdict(), Verdict::Above);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Their mean.
    pub mean: f64,
    /// Its standard error: their sample deviation over `sqrt(n)`.
    pub stderr: f64,
    /// The number of pairs.
    pub n: usize,
}

/// Outcome of a paired comparison at the 95 % level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first is larger.
    Above,
    /// The first is smaller.
    Below,
    /// Chance alone may make such a difference.
    Open,
}

impl Difference {
    /// Of `a` minus `b`, example by example; `None` where they are not of the same examples.
    pub fn paired(a: &[f64], b: &[f64]) -> Option<Self> {
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        (a.len() == b.len() && !a.is_empty()).then(|| Self::over(&differences))
    }

    fn over(differences: &[f64]) -> Self {
        let (mean, stderr) = mean_stderr(differences);
        Difference {
            mean,
            stderr,
            n: differences.len(),
        }
    }

    /// Half the width of the interval that holds the true difference in 95 of 100 samples; `None`
    /// below two examples.
    pub fn margin(&self) -> Option<f64> {
        (self.n > 1).then(|| quantile(self.n - 1) * self.stderr)
    }

    /// The verdict of Student's t-test at 95 %, both sides. Where all differences are equal it is
    /// that of the sign test, which needs six.
    pub fn verdict(&self) -> Verdict {
        let exact = self.stderr <= 1e-9 * self.mean.abs();
        let sure = match self.margin() {
            None => false,
            Some(_) if exact => self.n >= 6,
            Some(margin) => self.mean.abs() > margin,
        };
        match self.mean {
            mean if sure && mean > 0.0 => Verdict::Above,
            mean if sure && mean < 0.0 => Verdict::Below,
            _ => Verdict::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_that_of_pairs() {
        // Differences 1, 2, 3, 6: mean 3, deviation sqrt(14 / 3), error sqrt(14 / 3 / 4).
        let d = Difference::paired(&[11.0, 22.0, 33.0, 46.0], &[10.0, 20.0, 30.0, 40.0]).unwrap();
        assert_eq!((d.mean, d.n), (3.0, 4));
        assert!((d.stderr - 1.080_123_449_7).abs() < 1e-9, "{}", d.stderr);
        // 3.1824 errors: 3.437 to each side, so 0 is inside.
        assert!((d.margin().unwrap() - 3.437_435).abs() < 1e-5);
        assert_eq!(d.verdict(), Verdict::Open);
        assert_eq!(Difference::paired(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(Difference::paired(&[], &[]), None);
    }

    #[test]
    fn two_runs_need_a_difference_of_many_errors() {
        // Differences 4 and 6: five errors above 0, far below the 12.7 that one degree asks for.
        let d = Difference::paired(&[10.0, 12.0], &[6.0, 6.0]).unwrap();
        assert_eq!((d.mean, d.stderr), (5.0, 1.0));
        assert_eq!(d.verdict(), Verdict::Open);
        let d = Difference::paired(&[10.0, 10.0], &[5.2, 4.8]).unwrap();
        assert!((d.mean / d.stderr - 25.0).abs() < 1e-9);
        assert_eq!(d.verdict(), Verdict::Above);
    }

    #[test]
    fn equal_differences_count_by_their_number() {
        let some = |n: usize| Difference::paired(&vec![1.0; n], &vec![0.7; n]).unwrap();
        assert_eq!(some(1).verdict(), Verdict::Open);
        assert_eq!(some(5).verdict(), Verdict::Open);
        assert_eq!(some(6).verdict(), Verdict::Above);
        let same = Difference::paired(&[3.0; 9], &[3.0; 9]).unwrap();
        assert_eq!(same.verdict(), Verdict::Open);
    }
}
