//! A matrix inside a slice: a head's columns of a row of heads, or a matrix read column by column.

/// `rows` x `columns` values of a slice, at regular steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Values from one row, and from one column, to the next.
    pub(crate) steps: (usize, usize),
}

impl<'a> View<'a> {
    /// `rows` x `columns` at the start of `values`, rows `step` values apart.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize, step: usize) -> Self {
        View {
            values,
            rows,
            columns,
            steps: (step, 1),
        }
    }

    /// A whole matrix `[rows, columns]`.
    pub(crate) fn whole(values: &'a [f32], rows: usize, columns: usize) -> Self {
        View::new(values, rows, columns, columns)
    }

    /// The transpose.
    pub(crate) fn transposed(self) -> Self {
        View {
            rows: self.columns,
            columns: self.rows,
            steps: (self.steps.1, self.steps.0),
            ..self
        }
    }

    /// Returns `true` if every element is inside the slice.
    pub(crate) fn inside(&self) -> bool {
        let last = (self.rows.max(1) - 1) * self.steps.0 + (self.columns.max(1) - 1) * self.steps.1;
        self.rows * self.columns == 0 || last < self.values.len()
    }

    /// Values `from..to` of a row, if they lie side by side.
    #[inline(always)]
    pub(crate) fn run(&self, row: usize, from: usize, to: usize) -> Option<&'a [f32]> {
        let start = row * self.steps.0;
        (self.steps.1 == 1).then(|| &self.values[start + from..start + to])
    }
}
