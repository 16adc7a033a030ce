//! Fields that families read alike.

use lyceum_kernels::activation::Activation;

use super::fields::Fields;
use super::types::Layer;
use crate::error::Result;

/// `n` blocks alike, within reason.
pub(super) fn layers(fields: &Fields, n: usize, scale: f64) -> Result<Vec<Layer>> {
    if n > 10_000 {
        return Err(fields.bad(format!("{n} blocks are more than 10000")));
    }
    let layer = Layer {
        scale,
        window: None,
    };
    Ok(vec![layer; n])
}

/// The width of a head when `hidden_size` is shared out among `heads`.
pub(super) fn head_dim(fields: &Fields, hidden: usize, heads: usize) -> Result<usize> {
    match hidden.is_multiple_of(heads) {
        true => Ok(hidden / heads),
        false => Err(fields.bad(format!(
            "the hidden size {hidden} is not a multiple of the {heads} heads"
        ))),
    }
}

/// The activation that field `name` names.
pub(super) fn activation(fields: &mut Fields, name: &str) -> Result<Activation> {
    let text = fields.text(name)?;
    activation_of(fields, &text)
}

/// The activation of this name; several are the same function, computed another way.
pub(super) fn activation_of(fields: &Fields, name: &str) -> Result<Activation> {
    Ok(match name {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
            Activation::GeluTanh
        }
        "gelu" | "gelu_python" => Activation::Gelu,
        "silu" | "swish" => Activation::Silu,
        "relu" => Activation::Relu,
        other => {
            return Err(fields.bad(format!(
                "the activation `{other}` is not supported; supported: gelu_new, \
                 gelu_pytorch_tanh, gelu, silu, swish, relu"
            )));
        }
    })
}

/// Takes `sliding_window` of a family whose attention never slides.
pub(super) fn never_slides(fields: &mut Fields) -> Result<()> {
    match fields.flag_maybe("use_sliding_window")? {
        Some(true) => {
            return Err(fields.bad(
                "field `use_sliding_window` is true, but this model_type has no sliding windows",
            ));
        }
        Some(false) => fields.skip(&["sliding_window"]),
        None => {}
    }
    fields.skip(&["max_window_layers"]);
    fields.unused("sliding_window", "this model_type sees all earlier tokens");
    Ok(())
}

/// Checks `layer_types` where `layers` already follow from the family.
pub(super) fn same_layers(fields: &mut Fields, layers: &[Layer]) -> Result<()> {
    let Some(types) = fields.list::<String>("layer_types", "texts")? else {
        return Ok(());
    };
    let fits = |(kind, layer): (&String, &Layer)| match kind.as_str() {
        "full_attention" | "attention" => layer.window.is_none(),
        "sliding_attention" => layer.window.is_some(),
        _ => false,
    };
    match types.len() == layers.len() && types.iter().zip(layers).all(fits) {
        true => Ok(()),
        false => Err(fields.bad(
            "field `layer_types` does not agree with `sliding_window`, which alone decides in \
             this model_type: make them agree, or leave layer_types out",
        )),
    }
}
