//! Whole tensors of the base that an adapter's file holds beside its factors.
//!
//! PEFT saves embedding and head along when the vocabulary may have changed or when they are named
//! in `modules_to_save`. Where such a copy is the base's own tensor nothing is lost without it;
//! where it is not, the adapter is only right with it, and no expert can carry it.

use candle_core::Tensor;
use half::{bf16, f16};

use crate::error::{Error, Result};

/// A base's own tensors, for comparison.
pub trait BaseTensors {
    /// The tensor called `name` in f32, in the shape of the checkpoint; `None` if the base has
    /// none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>>;
}

/// Checks that `copy`, which the file calls `said`, is the base's own tensor `name`, as it is or
/// rounded to bf16 or f16.
///
/// # Errors
/// [`Error::Mismatch`] saying how they differ and what to do.
pub(super) fn check(
    said: &str,
    name: &str,
    copy: &Tensor,
    base: Option<&dyn BaseTensors>,
) -> Result<()> {
    let wrong = |why: String| Err(Error::Mismatch(format!("tensor `{said}` {why}")));
    let Some(base) = base else {
        return wrong(
            "is a whole tensor of the base, saved along: import the adapter with its base, which \
             tells whether the adapter changed it"
                .into(),
        );
    };
    let Some(own) = base.tensor(name)? else {
        return wrong(format!(
            "is a whole tensor, and the base has no `{name}`: the adapter brings a module of its \
             own (a classifier, say), which no expert has"
        ));
    };
    if own.dims() != copy.dims() {
        return wrong(format!(
            "is {:?}, the base's `{name}` is {:?}: the vocabulary was resized, or this is another \
             base; {ADVICE}",
            copy.dims(),
            own.dims()
        ));
    }
    let values = |t: &Tensor| Ok::<_, Error>(t.flatten_all()?.to_vec1::<f32>()?);
    let (copy, own) = (values(copy)?, values(&own)?);
    let rounded: [fn(f32) -> f32; 3] = [
        |x| x,
        |x| bf16::from_f32(x).to_f32(),
        |x| f16::from_f32(x).to_f32(),
    ];
    let same = |round: &fn(f32) -> f32| copy.iter().zip(&own).all(|(c, o)| *c == round(*o));
    if rounded.iter().any(same) {
        return Ok(());
    }
    let pairs = copy.iter().zip(&own).filter(|(c, o)| c != o);
    let (count, most) = pairs.fold((0usize, 0f32), |(count, most), (c, o)| {
        (count + 1, most.max((c - o).abs()))
    });
    wrong(format!(
        "is not the base's own `{name}`: {count} of {} values differ, by {most:e} at most. The \
         adapter was trained together with it, or on another base; {ADVICE}",
        own.len()
    ))
}

const ADVICE: &str = "train without modules_to_save, or merge the adapter into its base \
                      (merge_and_unload) and use that as a base";

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    struct One(Tensor);

    impl BaseTensors for One {
        fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
            Ok((name == "lm_head.weight").then(|| self.0.clone()))
        }
    }

    #[test]
    fn only_the_bases_own_values_pass() {
        let values = [0.1f32, -2.0, 3.7, 1e-3, 0.0, 7.5];
        let own = Tensor::from_slice(&values, (3, 2), &Device::Cpu).unwrap();
        let base = One(own.clone());
        let said = |copy: &Tensor, name: &str, base: Option<&dyn BaseTensors>| {
            check("x.weight", name, copy, base).map_err(|e| e.to_string())
        };
        let head = "lm_head.weight";
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let copy = own
                .to_dtype(dtype)
                .and_then(|t| t.to_dtype(DType::F32))
                .unwrap();
            assert_eq!(said(&copy, head, Some(&base)), Ok(()), "{dtype:?}");
        }
        let mut other = values;
        other[2] = 3.8;
        let other = Tensor::from_slice(&other, (3, 2), &Device::Cpu).unwrap();
        let why = said(&other, head, Some(&base)).unwrap_err();
        assert!(
            why.contains("1 of 6 values differ") && why.contains("`x.weight`"),
            "{why}"
        );
        let more = Tensor::zeros((4, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(
            said(&more, head, Some(&base))
                .unwrap_err()
                .contains("resized")
        );
        assert!(
            said(&own, "score.weight", Some(&base))
                .unwrap_err()
                .contains("no `score.weight`")
        );
        assert!(
            said(&own, head, None)
                .unwrap_err()
                .contains("with its base")
        );
    }
}
