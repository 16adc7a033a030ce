//! Axes: round numbers within a range, and places for labels that must not overlap.

/// A range of values along which a picture extends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    /// The pixel positions of `low` and `high`.
    pub(super) pixels: (f64, f64),
}

impl Axis {
    /// The place of `value`.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (from, to) = self.pixels;
        let span = (self.high - self.low).max(f64::MIN_POSITIVE);
        from + (value.clamp(self.low, self.high) - self.low) / span * (to - from)
    }

    /// About `count` round numbers in the range, with their texts; `whole` leaves out fractions.
    pub(super) fn ticks(&self, count: usize, whole: bool) -> Vec<(f64, String)> {
        let span = self.high - self.low;
        if !(span > 0.0 && span.is_finite()) {
            return vec![(self.low, self.low.to_string())];
        }
        let mut step = 10_f64.powf((span / count.max(1) as f64).log10().floor());
        for factor in [2.0, 2.5, 2.0] {
            if span / step > count as f64 * 1.01 {
                step *= factor;
            }
        }
        if whole {
            step = step.ceil().max(1.0);
        }
        let digits = (0..6).find(|&d| {
            let scaled = step * 10_f64.powi(d);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        });
        let digits = digits.unwrap_or(6) as usize;
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        let tick = |i: i64| {
            let value = i as f64 * step;
            (value, format!("{value:.digits$}"))
        };
        (first..=last).map(tick).collect()
    }
}

/// The least and greatest finite value; `None` where there is none.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let finite = values.filter(|v| v.is_finite());
    finite.fold(None, |seen, v| {
        let [low, high] = seen.unwrap_or([v, v]);
        Some([low.min(v), high.max(v)])
    })
}

/// Moves `places` as little as may be so that each is `gap` from the next and all are within
/// `low..=high` where there is room. Their order stays.
pub(super) fn spread(places: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
    let mut moved = places.to_vec();
    let mut least = low;
    for &i in &order {
        moved[i] = moved[i].max(least);
        least = moved[i] + gap;
    }
    let mut most = high;
    for &i in order.iter().rev() {
        moved[i] = moved[i].min(most);
        most = moved[i] - gap;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(low: f64, high: f64, count: usize, whole: bool) -> Vec<String> {
        let axis = Axis {
            low,
            high,
            pixels: (0.0, 1.0),
        };
        let ticks = axis.ticks(count, whole).into_iter();
        ticks.map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            texts(0.0, 1.0, 5, false),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(texts(0.0, 3.0, 8, true), ["0", "1", "2", "3"]);
        assert_eq!(
            texts(0.0, 29.0, 8, true),
            ["0", "5", "10", "15", "20", "25"]
        );
        assert_eq!(texts(0.0, 42.0, 5, false), ["0", "10", "20", "30", "40"]);
        assert_eq!(texts(2.0, 2.0, 5, false), ["2"]);
    }

    #[test]
    fn labels_are_kept_apart_and_inside() {
        let moved = spread(&[50.0, 51.0, 52.0, 99.0], 10.0, 0.0, 100.0);
        let mut sorted = moved.clone();
        sorted.sort_by(f64::total_cmp);
        assert_eq!(sorted, moved, "the order stays");
        assert!(
            moved.windows(2).all(|p| p[1] - p[0] >= 10.0 - 1e-9),
            "{moved:?}"
        );
        assert!(moved.iter().all(|p| (0.0..=100.0).contains(p)), "{moved:?}");
        assert_eq!(spread(&[10.0, 90.0], 10.0, 0.0, 100.0), [10.0, 90.0]);
    }
}
