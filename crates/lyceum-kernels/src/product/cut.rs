//! Splits a product into jobs.

use super::{Interval, Job, ROWS};
use crate::cpu::Level;
use crate::pack::{Panels, Values};

/// Rows per job on AMX, whose tiles consume a panel faster than memory delivers it.
const TILED: usize = 192;
/// Rows of the tallest tile.
const TALL: usize = 12;
/// Panels per job.
const PANELS: usize = 32;
/// Up to this many rows the columns are cut finer, so that all threads get some.
const FEW: usize = 16;
/// Products below this many multiplications are not worth a second thread.
const SMALL: usize = 1 << 17;

/// The jobs of a product.
pub(super) struct Cut {
    pub(super) jobs: Vec<Job>,
    /// Every job has all panels of its rows.
    pub(super) whole_rows: bool,
    /// So little work that one thread does it all.
    pub(super) small: bool,
}

impl Cut {
    /// Cuts the product of `t` rows with `panels`; `then` says that something is done with the
    /// rows of the result.
    pub(super) fn new(level: Level, t: usize, panels: &Panels, then: bool) -> Self {
        let count = panels.n.div_ceil(2 * panels.lanes);
        let small = t * panels.k * panels.n < SMALL;
        let wide = match t {
            0..=FEW if small => count.max(1),
            0..=FEW => count.div_ceil(2 * rayon::current_num_threads()).max(4),
            // Whole rows, if something is done with them.
            _ if then => count.max(1),
            _ => PANELS,
        };
        // A thread's rows stay in its caches while the panels, which may not, are read once.
        let rows = match &panels.values {
            Values::Bf16(_) if level == Level::Amx => TILED,
            // Fewer where not every thread would get some.
            _ => ROWS.min(
                t.div_ceil(rayon::current_num_threads())
                    .next_multiple_of(TALL),
            ),
        };
        let mut jobs = Vec::new();
        for panel in (0..count).step_by(wide) {
            for row in (0..t).step_by(rows.max(1)) {
                jobs.push(Job {
                    rows: Interval::new(row, (row + rows).min(t)),
                    panels: Interval::new(panel, (panel + wide).min(count)),
                });
            }
        }
        Cut {
            jobs,
            whole_rows: wide >= count,
            small,
        }
    }
}
