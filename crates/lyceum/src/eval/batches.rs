//! The loop of every evaluation: batches, progress, and how it is stopped.

use crate::error::{Error, Result};
use crate::progress::{Progress, Step};

/// The result of one example.
pub(super) struct Scored<R> {
    pub(super) row: R,
    /// The value that progress shows the mean of.
    pub(super) value: f64,
    /// Tokens computed.
    pub(super) tokens: usize,
}

/// Scores `items`, `batch_size` at a time, and reports the mean of the values so far after each
/// batch. `score` takes the index of the batch's first item and the batch, and returns a result
/// per item.
///
/// # Errors
/// Those of `score`; [`Error::Stopped`] when `progress` stops the run before the last item, and
/// then nothing is kept.
pub(super) fn batches<T, R>(
    items: &[T],
    batch_size: usize,
    progress: &mut dyn Progress,
    score: impl Fn(usize, &[T]) -> Result<Vec<Scored<R>>>,
) -> Result<Vec<R>> {
    let total = items.len();
    let mut rows = Vec::with_capacity(total);
    let mut sum = 0.0;
    for batch in items.chunks(batch_size.max(1)) {
        let mut tokens = 0;
        for scored in score(rows.len(), batch)? {
            sum += scored.value;
            tokens += scored.tokens;
            rows.push(scored.row);
        }
        let done = rows.len();
        let step = Step {
            value: sum / done as f64,
            tokens,
            ..Step::new(done, total)
        };
        if progress.step(&step).is_break() && done < total {
            return Err(Error::Stopped(format!(
                "stopped after {done} of {total} examples; their results are not kept"
            )));
        }
    }
    Ok(rows)
}
