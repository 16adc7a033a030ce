//! One block: attention and MLP, joined to the stream as the family does. A block is one operation
//! in the graph of a training step; what happens inside is computed here, forward and backward.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use lyceum_kernels::rope::Angles;
use lyceum_kernels::stream;

use super::attention::{Attention, AttentionInput, AttentionSaved, BlockArgs};
use super::cache::Cache;
use super::mlp::{Mlp, MlpSaved};
use super::norm::Norm;
use super::source::Source;
use crate::backbone::config::layout::Norms;
use crate::backbone::config::{Config, Linear};
use crate::error::Result;
use crate::mix::{Gradients, Mixture, Pass, Route, RoutedLinear, SeqLens};
use crate::name::{Name, Site};
use crate::ops::{self, Gradient};

/// One block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) norms: Norms<Norm>,
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
}

/// Intermediates of the forward pass that the backward pass reads, besides the input.
#[derive(Debug)]
struct BlockSaved {
    seen: AttentionSaved,
    made: MlpSaved,
    /// The stream between attention and MLP.
    middle: Vec<f32>,
    /// The output of attention; empty unless a norm follows.
    attended: Vec<f32>,
    /// The output of the MLP; empty unless a norm follows.
    inner: Vec<f32>,
}

/// The inputs of a pass, owned for as long as a backward pass may follow.
#[derive(Debug)]
pub(super) struct PassState {
    pub(super) seq_lens: SeqLens,
    pub(super) tasks: Vec<Name>,
    pub(super) routes: Vec<(Range<usize>, Mixture)>,
    pub(super) angles: Option<Arc<Angles>>,
    /// Activation recomputation: blocks keep only their input and compute all else again.
    pub(super) recompute: bool,
}

impl PassState {
    fn routes(&self) -> Vec<Route<'_>> {
        let routes = self.routes.iter();
        routes
            .map(|(sequences, mixture)| Route {
                sequences: sequences.clone(),
                mixture,
            })
            .collect()
    }

    fn pass<'a>(&'a self, routes: &'a [Route<'a>]) -> Pass<'a> {
        Pass {
            seq_lens: &self.seq_lens,
            tasks: &self.tasks,
            routes,
            probe: None,
            recompute: self.recompute,
        }
    }
}

impl Block {
    /// Block `i` of `config`, which has one.
    pub(super) fn new(config: &Config, i: usize, source: &Source<'_>) -> Result<Self> {
        let linear = |linear: Linear| {
            let weight = source.matrix(&format!("{}.weight", linear.path), config.transposed)?;
            let bias = match linear.bias {
                true => Some(source.vector(&format!("{}.bias", linear.path))?),
                false => None,
            };
            Ok(RoutedLinear::new(Site::new(linear.path), weight, bias))
        };
        let norm = |path: String| Norm::new(source, &path, config.norm);
        let layout = config.layout(i).map(linear, norm)?;
        Ok(Block {
            norms: layout.norms,
            attention: Attention {
                layer: i,
                qkv: layout.qkv,
                norms: layout.qk_norms,
                heads: config.heads(&config.layers[i], source.rounding()),
                out: layout.out,
            },
            mlp: Mlp {
                up: layout.up,
                down: layout.down,
                activation: config.mlp.activation,
            },
        })
    }

    /// The trainable tensors, in the order of the gradients.
    fn variables(&self, pass: &Pass<'_>) -> Vec<Tensor> {
        let mut all = self.attention.variables(pass);
        all.extend(self.mlp.variables(pass));
        all.extend(self.norms.all().into_iter().flat_map(Norm::variables));
        all
    }

    /// The wanted rows of the stream `[t, d]` after this block.
    fn forward(
        &self,
        x: &[f32],
        cache: Option<&mut Cache>,
        args: &BlockArgs<'_>,
    ) -> Result<(Vec<f32>, BlockSaved)> {
        let d = x.len() / args.pass.seq_lens.tokens().max(1);
        let picked = args.wanted.map(|wanted| wanted.pick(x, d));
        let own = picked.as_deref().unwrap_or(x);
        let pass = args.own();
        let h = self.norms.attention().forward(x)?;
        let after = match &self.norms {
            Norms::Sandwich {
                after_attention,
                after_mlp,
                ..
            } => Some((after_attention, after_mlp)),
            _ => None,
        };
        let onto = after.is_none().then_some(own);
        let (mut middle, seen) = self.attention.forward(&h, onto, cache, args)?;
        let mut attended = Vec::new();
        if let Some((norm, _)) = after {
            let mut normed = norm.forward(&middle)?;
            stream::add(own, &mut normed);
            attended = std::mem::replace(&mut middle, normed);
        }
        let h = match &self.norms {
            Norms::Sequential { mlp, .. } | Norms::Sandwich { mlp, .. } => mlp.forward(&middle)?,
            Norms::Parallel { mlp, .. } => mlp.forward(own)?,
            Norms::Shared(_) => match args.wanted {
                Some(wanted) => wanted.pick(&h, d),
                None => h,
            },
        };
        let onto = after.is_none().then_some(middle.as_slice());
        let (mut y, made) = self.mlp.forward(&h, onto, &pass)?;
        let mut inner = Vec::new();
        if let Some((_, norm)) = after {
            let mut normed = norm.forward(&y)?;
            stream::add(&middle, &mut normed);
            inner = std::mem::replace(&mut y, normed);
        }
        let kept = BlockSaved {
            seen,
            made,
            middle,
            attended,
            inner,
        };
        Ok((y, kept))
    }

    /// The gradients of a forward pass from `x` `[t, d]` for that of its result, `dy`.
    fn backward(
        &self,
        x: &[f32],
        kept: &BlockSaved,
        dy: &[f32],
        args: &BlockArgs<'_>,
        wants_dx: bool,
    ) -> Result<Gradient> {
        let d = x.len() / args.pass.seq_lens.tokens().max(1);
        let picked = args.wanted.map(|wanted| wanted.pick(x, d));
        let own = picked.as_deref().unwrap_or(x);
        let mut backward = Backward {
            block: self,
            x,
            own,
            kept,
            args,
            attention: Gradients::new(),
            mlp: Gradients::new(),
            norms: NormGradients::default(),
        };
        // The norm that the MLP reads through and what goes into that, unless it shares
        // attention's.
        let into = match &self.norms {
            Norms::Sequential { mlp, .. } | Norms::Sandwich { mlp, .. } => {
                Some((mlp, kept.middle.as_slice()))
            }
            Norms::Parallel { mlp, .. } => Some((mlp, own)),
            Norms::Shared(_) => None,
        };
        let dh = backward.mlp(into, dy)?;
        // What reaches the block's own rows otherwise than through attention.
        let beside = match into {
            Some((norm, x)) => {
                let gradients = &mut backward.norms.mlp;
                Cow::Owned(norm.backward(x, &dh, Some(dy), gradients)?)
            }
            None => Cow::Borrowed(dy),
        };
        let dmiddle = match &self.norms {
            Norms::Sequential { .. } | Norms::Sandwich { .. } => &beside,
            Norms::Parallel { .. } | Norms::Shared(_) => dy,
        };
        let trained = |norm: &&Norm| !norm.variables().is_empty();
        let below = wants_dx || self.norms.all().iter().any(trained);
        let mut dnormed = below.then(Vec::new);
        backward.attention(dmiddle, dnormed.as_mut())?;
        let dx = match dnormed {
            Some(dnormed) => Some(backward.input(dnormed, &dh, beside)?),
            None => None,
        };
        Ok(Gradient {
            dx: dx.filter(|_| wants_dx),
            params: backward.params(),
        })
    }
}

/// The gradients of a block's norms.
#[derive(Default)]
struct NormGradients {
    attention: Gradients,
    mlp: Gradients,
    after_attention: Gradients,
    after_mlp: Gradients,
}

/// A backward pass through a block: what it reads, and the gradients of the variables so far.
struct Backward<'a> {
    block: &'a Block,
    /// The stream before the block, and its wanted rows.
    x: &'a [f32],
    own: &'a [f32],
    kept: &'a BlockSaved,
    args: &'a BlockArgs<'a>,
    attention: Gradients,
    mlp: Gradients,
    norms: NormGradients,
}

impl Backward<'_> {
    /// Through the MLP and the norm after it: from the gradient of the block's result to that of
    /// the MLP's input.
    fn mlp(&mut self, into: Option<(&Norm, &[f32])>, dy: &[f32]) -> Result<Vec<f32>> {
        let (block, kept, pass) = (self.block, self.kept, self.args.own());
        let dmade = match &block.norms {
            Norms::Sandwich { after_mlp, .. } => {
                let gradients = &mut self.norms.after_mlp;
                Some(after_mlp.backward(&kept.inner, dy, None, gradients)?)
            }
            _ => None,
        };
        let normed = match (block.mlp.reads_input(&pass), into) {
            (false, _) => Vec::new(),
            (true, Some((norm, x))) => norm.forward(x)?,
            (true, None) => block.norms.attention().forward(self.own)?,
        };
        let dout = dmade.as_deref().unwrap_or(dy);
        let gradients = &mut self.mlp;
        block
            .mlp
            .backward(&normed, &kept.made, dout, &pass, gradients)
    }

    /// Through attention and the norm after it: from the gradient of the stream between to that
    /// of attention's input, which is put into `dx`, if wanted.
    fn attention(&mut self, dmiddle: &[f32], dx: Option<&mut Vec<f32>>) -> Result<()> {
        let (block, kept, args) = (self.block, self.kept, self.args);
        let dattended = match &block.norms {
            Norms::Sandwich {
                after_attention, ..
            } => {
                let gradients = &mut self.norms.after_attention;
                Some(after_attention.backward(&kept.attended, dmiddle, None, gradients)?)
            }
            _ => None,
        };
        let normed = match block.attention.reads_input(args.pass) {
            true => block.norms.attention().forward(self.x)?,
            false => Vec::new(),
        };
        let dout = dattended.as_deref().unwrap_or(dmiddle);
        let read = AttentionInput {
            x: &normed,
            kept: &kept.seen,
        };
        let gradients = &mut self.attention;
        block.attention.backward(read, dout, args, dx, gradients)
    }

    /// Through the first norm to the stream before the block: from the gradients of attention's
    /// input, of the MLP's and of what passes beside them.
    fn input(
        &mut self,
        mut dnormed: Vec<f32>,
        dh: &[f32],
        beside: Cow<'_, [f32]>,
    ) -> Result<Vec<f32>> {
        let (x, wanted) = (self.x, self.args.wanted);
        let d = x.len() / self.args.pass.seq_lens.tokens().max(1);
        if let Norms::Shared(_) = self.block.norms {
            match wanted {
                Some(wanted) => wanted.put_back(dh, d, &mut dnormed),
                None => stream::add(dh, &mut dnormed),
            }
        }
        let beside = match wanted {
            Some(wanted) => {
                let mut all = vec![0.0; x.len()];
                wanted.put_back(&beside, d, &mut all);
                Cow::Owned(all)
            }
            None => beside,
        };
        let norm = self.block.norms.attention();
        norm.backward(x, &dnormed, Some(&beside), &mut self.norms.attention)
    }

    /// The gradients of the variables, in the order of [`Block::variables`].
    fn params(self) -> Gradients {
        let NormGradients {
            attention,
            mlp,
            after_attention,
            after_mlp,
        } = self.norms;
        let norms = [attention, mlp, after_attention, after_mlp];
        let all = self.attention.into_iter().chain(self.mlp);
        all.chain(norms.into_iter().flatten()).collect()
    }
}

/// The stream `x` `[t, d]` after `block`: of the wanted rows, if some are named. `held` is what a
/// backward pass will know of the pass.
pub(super) fn run(
    block: &Arc<Block>,
    x: &Tensor,
    cache: Option<&mut Cache>,
    args: &BlockArgs<'_>,
    held: &Arc<PassState>,
) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let variables = block.variables(args.pass);
    let (y, kept) = block.forward(&ops::values(x)?, cache, args)?;
    let shape = (args.wanted.map_or(t, |wanted| wanted.rows.len()), d);
    let tracked = x.track_op() || !variables.is_empty();
    let kept = Mutex::new(Some(kept).filter(|_| tracked && !held.recompute));
    let (block, held, wanted) = (block.clone(), held.clone(), args.wanted.cloned());
    ops::fused(x, &variables, y, shape, move |x, dy, wants_dx| {
        let routes = held.routes();
        let pass = held.pass(&routes);
        let args = BlockArgs {
            pass: &pass,
            angles: held.angles.as_ref(),
            wanted: wanted.as_ref(),
        };
        // What was kept is let go as soon as it was used.
        let kept = match kept.lock().ok().and_then(|mut kept| kept.take()) {
            Some(kept) => kept,
            None => block.forward(x, None, &args)?.1,
        };
        block.backward(x, &kept, dy, &args, wants_dx)
    })
}
