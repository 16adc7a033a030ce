//! The family fingerprint: which network a base is, whatever bytes it is kept in.
//!
//! An expert trained over a quantised file fits the full-precision folder of the same network and
//! no other network. So the hash covers what is computed and the names and shapes of all linears,
//! but no weights, and nothing of how weights are kept: precision, the way round a matrix lies,
//! whether a norm's one is added already, whether the head is a second copy of the embedding.

use lyceum_kernels::activation::Activation;
use serde::Serialize;

use super::rope::{Rope, Scaling};
use super::types::{Config, MlpShape, Norm, NormKind, Positions, Qkv, Residual};
use crate::error::{Error, Result};

/// The hashed fields, in this order, which must not change: libraries store the result.
#[derive(Serialize)]
struct Architecture {
    embedding: (String, usize, usize),
    embedding_scale: String,
    learned_positions: Option<(String, usize)>,
    rotation: Option<Rotation>,
    norm: (NormKind, String),
    residual: Residual,
    heads: (usize, usize, usize),
    qkv: Qkv,
    qk_norm: bool,
    score_cap: Option<String>,
    mlp: MlpShape,
    activation: String,
    layers: Vec<(String, Option<usize>)>,
    linears: Vec<(String, usize, usize, bool)>,
    head: (&'static str, usize, bool),
    logit_cap: Option<String>,
}

/// Rotary positions by what they do: programs write one stretched context in different words.
#[derive(Serialize)]
struct Rotation {
    dims: usize,
    theta: String,
    /// Divisor of each pair's rotation, and the factor of cosines and sines.
    short: (Vec<String>, String),
    /// Sequence length from which other divisors and another factor apply, with these.
    long: Option<(usize, (Vec<String>, String))>,
}

impl Config {
    /// Hex SHA-256 over the architecture alone: equal for one network in full precision or
    /// quantised, in a folder or a GGUF file, as far as both describe it. Other weights of the
    /// same shape have the same one.
    ///
    /// # Errors
    /// When the description cannot be written as JSON.
    pub fn family_fingerprint(&self) -> Result<String> {
        let text = serde_json::to_string(&self.architecture());
        let text = text.map_err(|e| Error::format("config.json", e))?;
        Ok(crate::digest::sha256(text))
    }

    fn architecture(&self) -> Architecture {
        let Norm { kind, eps, .. } = self.norm;
        let a = &self.attention;
        let modules = self.modules;
        let path = |module| self.in_root(module);
        Architecture {
            embedding: (path(modules.tokens), self.vocab_size, self.hidden_size),
            embedding_scale: rounded(f64::from(self.embedding_scale), 5),
            learned_positions: (self.positions == Positions::Learned)
                .then(|| (path(modules.positions), self.max_position_embeddings)),
            rotation: match &self.positions {
                Positions::Learned => None,
                Positions::Rotary(rope) => Some(rotation(rope)),
            },
            norm: (kind, rounded(eps, 5)),
            residual: self.residual,
            heads: (a.heads, a.kv_heads, a.dim),
            qkv: a.qkv,
            qk_norm: a.qk_norm,
            score_cap: a.soft_cap.map(|cap| rounded(cap, 5)),
            mlp: self.mlp.shape,
            activation: activation(self.mlp.activation).into(),
            layers: self
                .layers
                .iter()
                .map(|layer| (rounded(layer.scale, 5), layer.window))
                .collect(),
            linears: { self.linears().into_iter() }
                .map(|linear| (linear.path, linear.d_out, linear.d_in, linear.bias))
                .collect(),
            head: (modules.head, self.vocab_size, self.head.bias),
            logit_cap: self.head.soft_cap.map(|cap| rounded(cap, 5)),
        }
    }
}

fn activation(kind: Activation) -> &'static str {
    match kind {
        Activation::GeluTanh => "gelu_tanh",
        Activation::Gelu => "gelu",
        Activation::Silu => "silu",
        Activation::Relu => "relu",
    }
}

/// A number to `digits` significant digits: files keep the same one in f64, in f32 or as text.
fn rounded(x: f64, digits: usize) -> String {
    format!("{x:.*e}", digits - 1)
}

fn rotation(rope: &Rope) -> Rotation {
    let plain = Rope {
        scaling: Scaling::Default,
        ..rope.clone()
    };
    let (plain, _) = plain.frequencies(1);
    // Two digits of a divisor: GGUF files hold some as computed by the converter, in f32.
    let at = |len: usize| {
        let (turns, sharper) = rope.frequencies(len);
        let divisors = plain.iter().zip(&turns);
        let divisors = divisors.map(|(plain, turn)| rounded(f64::from(plain / turn), 2));
        (divisors.collect::<Vec<_>>(), rounded(sharper.into(), 3))
    };
    let short = at(1);
    let long = match &rope.scaling {
        Scaling::Dynamic { original, .. } | Scaling::LongRope { original, .. } => {
            Some((*original, at(original.saturating_mul(4))))
        }
        _ => None,
    };
    let long = long.filter(|(_, long)| *long != short);
    Rotation {
        dims: rope.dims,
        theta: rounded(rope.theta, 5),
        short,
        long,
    }
}
