//! The goldens in candle's operations on the device that `LYCEUM_TEST_DEVICE` names, as `--device`
//! does: by default the CPU. `bench/gpu` runs them on a GPU.

use std::sync::{Arc, LazyLock};

use candle_core::Device;
use lyceum::backbone::{Base, LoadOptions, Precision, families};

use crate::{families, golden, golden_eval, golden_routing, golden_training};

/// Loads a base for candle's operations on the device of the tests.
pub(crate) fn options(precision: Precision) -> LoadOptions {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        let name = std::env::var("LYCEUM_TEST_DEVICE");
        lyceum::device::device(name.as_deref().unwrap_or("cpu")).unwrap()
    });
    LoadOptions::candle(precision, &DEVICE)
}

/// The tiny base there, in f32.
pub(crate) fn base() -> Arc<Base> {
    static BASE: LazyLock<Arc<Base>> = LazyLock::new(|| {
        let path = golden::path("gpt-neo-tiny");
        Arc::new(Base::open(&path, options(Precision::F32)).unwrap())
    });
    BASE.clone()
}

#[test]
fn logits_and_losses_of_every_method_equal_the_reference() {
    golden_routing::check_logits_and_losses(&base());
}

#[test]
fn gradients_of_every_lora_tensor_equal_the_reference() {
    golden_training::check_gradients(&base());
}

#[test]
fn eighteen_training_steps_equal_the_reference() {
    golden_training::check_training_steps(&base());
}

#[test]
fn fifteen_phatgoose_steps_per_expert_equal_the_reference() {
    // Adam makes whole steps of gradients next to nothing, so gates are compared as a whole: on
    // the CPU one value of one gate is 1.2e-3 off, the rest some 3e-6.
    for (site, got, want) in golden_training::phatgoose_gates(&base()) {
        let apart = golden::relative(&got, &want);
        assert!(apart < 1e-2, "{site}: gates are {apart} apart");
    }
}

#[test]
fn greedy_texts_and_rouge_of_every_method_equal_the_reference() {
    golden_eval::check_texts_and_rouge(&base());
}

#[test]
fn multiple_choice_equals_the_reference() {
    golden_eval::check_multiple_choice(&base());
}

#[test]
fn logits_of_every_family_equal_the_reference() {
    for family in families() {
        let base = families::placed(family, None, options(Precision::F32));
        let golden = families::tensors(&families::folder(family).join("golden.safetensors"));
        let got = families::logits(&base, &families::sequences(&golden), None);
        let apart = golden::apart(&got, &golden["logits"]);
        assert!(apart <= 2e-4, "{family}: logits are {apart} apart");
    }
}
