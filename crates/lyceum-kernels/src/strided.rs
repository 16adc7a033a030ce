//! Products of matrices that lie inside others: a head's columns of a row of heads.

use gemm::Parallelism;

use crate::view::View;

/// `out = a b`, or `out += a b`; the rows of `out` are `step` values apart.
pub(crate) fn product(a: View<'_>, b: View<'_>, out: &mut [f32], step: usize, add: bool) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    let room = m * n == 0 || ((m - 1) * step + n <= out.len() && n <= step);
    assert!(
        k == b.rows && a.inside() && b.inside() && room,
        "shapes must agree"
    );
    if m * n == 0 {
        return;
    }
    // SAFETY: the strides describe m x k, k x n and m x n values inside the three slices, as
    // asserted above; `out` is not aliased.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            step as isize,
            add,
            a.values.as_ptr(),
            a.steps.1 as isize,
            a.steps.0 as isize,
            b.values.as_ptr(),
            b.steps.1 as isize,
            b.steps.0 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_rows_are_multiplied_in_place() {
        // Columns 1..3 of a 2 x 4 matrix times themselves turned.
        let a: Vec<f32> = (0..8).map(|x| x as f32).collect();
        let view = View::new(&a[1..], 2, 2, 4);
        let mut out = vec![100.0; 6];
        product(view, view.turned(), &mut out, 3, false);
        assert_eq!(out, [5.0, 17.0, 100.0, 17.0, 61.0, 100.0]);
        product(view, view.turned(), &mut out, 3, true);
        assert_eq!(out, [10.0, 34.0, 100.0, 34.0, 122.0, 100.0]);
        product(View::new(&[], 0, 2, 2), view, &mut [], 2, false);
    }

    #[test]
    #[should_panic(expected = "shapes must agree")]
    fn views_that_reach_outside_are_refused() {
        let a = [0.0; 7];
        let view = View::new(&a[1..], 2, 3, 4);
        product(view, view.turned(), &mut [0.0; 4], 2, false);
    }
}
