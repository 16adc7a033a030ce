//! The fields of a decoder's configuration.

use lyceum_kernels::activation::Activation;
use lyceum_kernels::attention::Heads;
use lyceum_kernels::gemm::Rounding;
use serde::Serialize;

use super::layout::{self, Layout, Norms, Up};
use super::modules::Modules;
use super::rope::Rope;
use crate::error::{Error, Result};
use crate::name::Site;

/// A decoder, described. Sizes are checked; widths fit each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// The family, as `config.json` names it.
    pub model_type: String,
    /// Number of tokens known.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Multiplies the embedded tokens.
    pub embedding_scale: f32,
    /// The position encoding.
    pub positions: Positions,
    /// The norm before attention and MLP, and at the end.
    pub norm: Norm,
    /// The residual layout of a block.
    pub residual: Residual,
    /// Attention of every block.
    pub attention: Attention,
    /// MLP of every block.
    pub mlp: Mlp,
    /// Settings that differ between blocks, one entry each.
    pub layers: Vec<Layer>,
    /// From the last hidden state to logits.
    pub head: Head,
    /// `true` if matrices are stored as `[d_in, d_out]` ("Conv1D").
    #[serde(skip)]
    pub(in crate::backbone) transposed: bool,
    /// The checkpoint's module names.
    #[serde(skip)]
    pub(in crate::backbone) modules: &'static Modules,
    /// The text covered by the fingerprint, when it is not this description.
    #[serde(skip)]
    pub(in crate::backbone) identity: Option<String>,
    /// The field that says how the weights are quantised, if one does: the tensors must not be.
    #[serde(skip)]
    pub(in crate::backbone) quantised: Option<String>,
    /// Notes for people: contradictions and how they were resolved, and unused fields.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// Position encodings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// A learned vector per position, added to the token's.
    Learned,
    /// Queries and keys turn with the position.
    Rotary(Rope),
}

/// A norm over the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub eps: f64,
    /// `true` if the weight is stored less one (Gemma).
    pub plus_one: bool,
}

/// The kinds of norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// LayerNorm with weight and bias.
    Layer,
    /// RMSNorm with a weight.
    Rms,
}

/// Residual layouts of a block, with `x` the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Residual {
    /// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
    Sequential,
    /// `x + attention(norm(x)) + mlp(norm'(x))`.
    Parallel,
    /// `x + attention(norm(x)) + mlp(norm(x))`, one norm for both (Phi).
    Shared,
    /// Sequential, with another norm over the outputs of attention and MLP (Gemma 2).
    Sandwich,
}

/// Attention of every block.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub dim: usize,
    /// Scores become `cap tanh(score / cap)`.
    pub soft_cap: Option<f64>,
    /// One matrix for q, k and v, or three.
    pub qkv: Qkv,
    /// `true` if q, k and v have biases.
    pub qkv_bias: bool,
    /// `true` if the output projection has a bias.
    pub out_bias: bool,
    /// `true` if every head of q and k is normed (by [`Config::norm`]) before the rotation.
    pub qk_norm: bool,
}

/// Layouts of the q, k and v projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Qkv {
    /// From a matrix each.
    Separate,
    /// From one matrix: all of q, all of k, all of v.
    Fused,
    /// From one matrix: q, k and v of head 0, then of head 1, ... (GPT-NeoX).
    Interleaved,
}

/// MLP of every block.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mlp {
    /// Its width.
    pub inner: usize,
    /// Its shape.
    pub shape: MlpShape,
    /// The activation, by one of the names checkpoints use.
    #[serde(serialize_with = "activation_name")]
    pub activation: Activation,
    /// `true` if its matrices have biases.
    pub bias: bool,
}

fn activation_name<S: serde::Serializer>(kind: &Activation, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match kind {
        Activation::GeluTanh => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Silu => "silu",
        Activation::Relu => "relu",
    })
}

/// Shapes of MLPs, with `f` the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpShape {
    /// `down f(up x)`.
    Plain,
    /// `down (f(gate x) * up x)`.
    Gated,
    /// Gated, with gate and up in one matrix, gate first.
    Fused,
}

/// Settings that differ between blocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Layer {
    /// Multiplies the scores.
    pub scale: f64,
    /// Sliding window: the number of last positions, its own included, that a token attends to; all
    /// when absent.
    pub window: Option<usize>,
}

/// From the last hidden state to logits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Head {
    /// `true` if its matrix is the token embedding.
    pub tied: bool,
    /// `true` if it has a bias.
    pub bias: bool,
    /// Logits become `cap tanh(logit / cap)`.
    pub soft_cap: Option<f64>,
}

/// One linear of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backbone) struct Linear {
    pub(in crate::backbone) path: String,
    pub(in crate::backbone) d_out: usize,
    pub(in crate::backbone) d_in: usize,
    pub(in crate::backbone) bias: bool,
}

impl Config {
    /// The path of a module of block `i`.
    pub(in crate::backbone) fn in_block(&self, i: usize, module: &str) -> String {
        let Modules { root, blocks, .. } = self.modules;
        format!("{root}.{blocks}.{i}.{module}")
    }

    /// The path of a module beside the blocks.
    pub(in crate::backbone) fn in_root(&self, module: &str) -> String {
        format!("{}.{module}", self.modules.root)
    }

    /// The heads of a block whose products round so.
    pub(in crate::backbone) fn heads(&self, layer: &Layer, rounding: Rounding) -> Heads {
        Heads {
            heads: self.attention.heads,
            kv_heads: self.attention.kv_heads,
            dim: self.attention.dim,
            scale: layer.scale as f32,
            window: layer.window,
            soft_cap: self.attention.soft_cap.map(|cap| cap as f32),
            rounding,
        }
    }

    /// The modules of block `i`: its linears, and the paths of its norms.
    pub(in crate::backbone) fn layout(&self, i: usize) -> Layout<Linear, String> {
        let (d, a, m) = (self.hidden_size, &self.attention, &self.mlp);
        let (q, kv) = (a.heads * a.dim, a.kv_heads * a.dim);
        let names = self.modules;
        let linear = |module: &str, d_out, d_in, bias| Linear {
            path: self.in_block(i, module),
            d_out,
            d_in,
            bias,
        };
        let qkv = |module: &str, d_out| linear(module, d_out, d, a.qkv_bias);
        let up = |module: &str, d_out| linear(module, d_out, d, m.bias);
        let norm = |module: &str| self.in_block(i, module);
        let (attention, mlp) = (norm(names.attention_norm), norm(names.mlp_norm));
        Layout {
            qkv: match names.qkv {
                layout::Qkv::Separate([own_q, k, v]) => {
                    layout::Qkv::Separate([qkv(own_q, q), qkv(k, kv), qkv(v, kv)])
                }
                layout::Qkv::Fused(all) => layout::Qkv::Fused(qkv(all, q + 2 * kv)),
                layout::Qkv::Interleaved(all) => layout::Qkv::Interleaved(qkv(all, q + 2 * kv)),
            },
            qk_norms: a.qk_norm.then(|| names.qk_norms.map(norm)),
            out: linear(names.out, d, q, a.out_bias),
            up: match names.up {
                Up::Plain(one) => Up::Plain(up(one, m.inner)),
                Up::Gated(both) => Up::Gated(both.map(|module| up(module, m.inner))),
                Up::Fused(both) => Up::Fused(up(both, 2 * m.inner)),
            },
            down: linear(names.down, d, m.inner, m.bias),
            norms: match self.residual {
                Residual::Sequential => Norms::Sequential { attention, mlp },
                Residual::Parallel => Norms::Parallel { attention, mlp },
                Residual::Shared => Norms::Shared(attention),
                Residual::Sandwich => Norms::Sandwich {
                    attention,
                    mlp,
                    after_attention: norm(names.after_attention),
                    after_mlp: norm(names.after_mlp),
                },
            },
        }
    }

    /// The linears of all blocks, in network order.
    pub(super) fn linears(&self) -> Vec<Linear> {
        let layouts = (0..self.layers.len()).map(|i| self.layout(i));
        let own = |layout: Layout<Linear, String>| layout.linears().cloned().collect::<Vec<_>>();
        layouts.flat_map(own).collect()
    }

    /// Every linear an expert can adapt, with (d_out, d_in), in network order.
    pub fn sites(&self) -> Vec<(Site, (usize, usize))> {
        let sites = self.linears().into_iter();
        let site = |l: Linear| (Site::new(l.path), (l.d_out, l.d_in));
        sites.map(site).collect()
    }

    /// Every tensor of the checkpoint with its shape on disk.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.hidden_size;
        let mut all = vec![(
            format!("{}.weight", self.in_root(self.modules.tokens)),
            vec![self.vocab_size, d],
        )];
        let norm = |all: &mut Vec<_>, path: String, width: usize| {
            all.push((format!("{path}.weight"), vec![width]));
            if self.norm.kind == NormKind::Layer {
                all.push((format!("{path}.bias"), vec![width]));
            }
        };
        if self.positions == Positions::Learned {
            let path = self.in_root(self.modules.positions);
            all.push((
                format!("{path}.weight"),
                vec![self.max_position_embeddings, d],
            ));
        }
        for i in 0..self.layers.len() {
            let layout = self.layout(i);
            for path in layout.norms.all() {
                norm(&mut all, path.clone(), d);
            }
            for path in layout.qk_norms.iter().flatten() {
                norm(&mut all, path.clone(), self.attention.dim);
            }
            for linear in layout.linears() {
                let (path, d_out, d_in) = (&linear.path, linear.d_out, linear.d_in);
                let shape = match self.transposed {
                    true => vec![d_in, d_out],
                    false => vec![d_out, d_in],
                };
                all.push((format!("{path}.weight"), shape));
                if linear.bias {
                    all.push((format!("{path}.bias"), vec![d_out]));
                }
            }
        }
        norm(&mut all, self.in_root(self.modules.norm), d);
        let head = self.modules.head;
        if !self.head.tied {
            all.push((format!("{head}.weight"), vec![self.vocab_size, d]));
        }
        if self.head.bias {
            all.push((format!("{head}.bias"), vec![self.vocab_size]));
        }
        all
    }

    /// Has a head of its own after all.
    pub(in crate::backbone) fn untie(&mut self) {
        self.head.tied = false;
        if let Some(identity) = &mut self.identity {
            let said = |tied| format!("\"tie_word_embeddings\":{tied}");
            *identity = identity.replace(&said(true), &said(false));
        }
    }

    /// The text that the fingerprint covers besides the weights.
    pub(in crate::backbone) fn identity(&self) -> Result<String> {
        match &self.identity {
            Some(text) => Ok(text.clone()),
            None => serde_json::to_string(self).map_err(|e| Error::format("config.json", e)),
        }
    }
}
