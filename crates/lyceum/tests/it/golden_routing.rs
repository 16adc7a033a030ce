//! Logits and losses of every routing method equal MTTL's on one batch, in f32.

use std::sync::Arc;

use lyceum::Name;
use lyceum::backbone::Base;
use lyceum::library::Library;
use lyceum::mix::Mixing;
use lyceum::model::Model;
use lyceum::route::Router;

use crate::golden;

/// MTTL's name for a method, and how it is said here: router, top-k, temperature, mixing.
type Method = (
    &'static str,
    &'static str,
    Option<usize>,
    Option<f64>,
    Mixing,
);

/// The nine methods that were recorded.
pub(crate) const METHODS: &[Method] = &[
    ("base", "base", None, None, Mixing::Outputs),
    ("task_name", "oracle", None, None, Mixing::Outputs),
    ("uniform", "uniform", None, None, Mixing::Factors),
    (
        "uniform_merge_after",
        "uniform",
        None,
        None,
        Mixing::Outputs,
    ),
    ("arrow_top2", "arrow", Some(2), None, Mixing::Factors),
    ("arrow_all", "arrow", None, None, Mixing::Factors),
    (
        "arrow_top2_merge_after",
        "arrow",
        Some(2),
        None,
        Mixing::Outputs,
    ),
    (
        "arrow_top2_temp0.1",
        "arrow",
        Some(2),
        Some(0.1),
        Mixing::Factors,
    ),
    (
        "phatgoose_top2",
        "phatgoose",
        Some(2),
        None,
        Mixing::Outputs,
    ),
];

/// `base` under one of [`METHODS`] over the golden experts.
pub(crate) fn model(base: &Arc<Base>, library: &Library, method: &str) -> Model {
    let row = METHODS.iter().find(|row| row.0 == method).unwrap();
    let spec = Router::named(row.1).unwrap();
    let spec = spec.top_k(row.2).temperature(row.3);
    Model::routed(base.clone(), library, &spec, row.4).unwrap()
}

#[test]
fn logits_and_losses_of_every_method_equal_the_reference() {
    check_logits_and_losses(&golden::base());
}

pub(crate) fn check_logits_and_losses(base: &Arc<Base>) {
    let tensors = golden::tensors("routed_logits.safetensors");
    let rows = golden::Rows::new(&tensors, "");
    let said = golden::json("routed.json");
    let tasks: Vec<Name> = serde_json::from_value(said["val_task_names"].clone()).unwrap();
    assert_eq!(said["scores"].as_object().unwrap().len(), METHODS.len());
    let library = golden::library();
    for (method, ..) in METHODS {
        let model = model(base, &library, method);
        let got = model
            .logits(&rows.tokens(), &rows.seq_lens(), &tasks)
            .unwrap(); // [t, v]
        let apart = golden::apart(&got, &tensors[&format!("logits.{method}")]);
        assert!(apart <= 2e-4, "{method}: logits are {apart} apart");
        let losses = model.losses(&rows.batch(&tasks), None).unwrap();
        let loss = losses.mean_all().unwrap().to_scalar::<f32>().unwrap();
        let want = said["scores"][method]["val_batch_loss"].as_f64().unwrap();
        let apart = (f64::from(loss) - want).abs();
        assert!(apart <= 1e-5, "{method}: loss {loss}, reference {want}");
    }
}
