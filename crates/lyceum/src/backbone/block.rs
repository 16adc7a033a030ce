//! One block: attention and MLP, joined to the stream as the family does. A block is one operation
//! in the graph of a training args; what happens inside is computed here, forward and backward.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use lyceum_kernels::rope::Angles;
use lyceum_kernels::stream;

use super::attention::{Attention, AttentionSaved, BlockArgs};
use super::cache::Cache;
use super::config::{Config, Linear, Residual};
use super::logit_rows::LogitRows;
use super::mlp::{Mlp, MlpSaved};
use super::norm::Norm;
use super::source::Source;
use crate::error::{Error, Result};
use crate::mix::{Gradients, Mixture, Pass, Route, RoutedLinear, SeqLens};
use crate::name::{Name, Site};
use crate::ops::{self, Gradient};

/// One block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) residual: Residual,
    /// In the order of [`Config::norms`].
    norms: Vec<Norm>,
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
    /// The outputs of attention and MLP, where a norm follows.
    bare: Option<(Vec<f32>, Vec<f32>)>,
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
    pub(super) fn new(config: &Config, i: usize, source: &mut Source<'_>) -> Result<Self> {
        let norm = |source: &mut Source<'_>, module: &str| {
            Norm::new(source, &config.in_block(i, module), config.norm)
        };
        let norms = config.norms().into_iter();
        let norms = norms
            .map(|module| norm(source, module))
            .collect::<Result<_>>()?;
        let qk_norms = match (config.attention.qk_norm, config.modules.qk_norms) {
            (true, [q, k]) => Some((norm(source, q)?, norm(source, k)?)),
            (true, _) => return Err(Error::invalid("this family has no norms of q and k")),
            (false, _) => None,
        };
        let mut linears = config.linears(i).into_iter().map(|linear| {
            let Linear { path, bias, .. } = linear;
            let weight = source.matrix(&format!("{path}.weight"), config.transposed)?;
            let bias = bias
                .then(|| source.vector(&format!("{path}.bias")))
                .transpose()?;
            Ok(RoutedLinear::new(Site::new(path), weight, bias))
        });
        let mut take = |n: usize| linears.by_ref().take(n).collect::<Result<Vec<_>>>();
        let short = || Error::invalid("a block has too few matrices");
        let qkv = take(config.modules.qkv.len())?;
        let out = take(1)?.pop().ok_or_else(short)?;
        let up = take(config.modules.up.len())?;
        let down = take(1)?.pop().ok_or_else(short)?;
        Ok(Block {
            residual: config.residual,
            norms,
            attention: Attention {
                qkv,
                split: config.attention.qkv,
                norms: qk_norms,
                heads: config.heads(&config.layers[i], source.rounding()),
                out,
            },
            mlp: Mlp {
                up,
                down,
                shape: config.mlp.shape,
                activation: config.mlp.activation,
            },
        })
    }

    pub(super) fn norm(&self, i: usize) -> Result<&Norm> {
        let few = || Error::invalid("a block has too few norms");
        self.norms.get(i).ok_or_else(few)
    }

    /// The trainable tensors, in the order of the gradients.
    fn variables(&self, pass: &Pass<'_>) -> Vec<Tensor> {
        let mut all = self.attention.variables(pass);
        all.extend(self.mlp.variables(pass));
        all.extend(self.norms.iter().flat_map(Norm::variables));
        all
    }

    /// The wanted rows of the stream `[t, d]` after this block, which is number `layer`.
    fn forward(
        &self,
        layer: usize,
        x: &[f32],
        cache: Option<&mut Cache>,
        args: &BlockArgs<'_>,
    ) -> Result<(Vec<f32>, BlockSaved)> {
        let d = x.len() / args.pass.seq_lens.tokens().max(1);
        let picked = args.wanted.map(|wanted| wanted.pick(x, d));
        let own = picked.as_deref().unwrap_or(x);
        let pass = args.own();
        let h = self.norm(0)?.forward(x)?;
        let sandwich = self.residual == Residual::Sandwich;
        let onto = (!sandwich).then_some(own);
        let (mut middle, seen) = self.attention.forward(layer, (&h, onto), cache, args)?;
        let mut bare = None;
        if sandwich {
            let attended = middle;
            middle = self.norm(2)?.forward(&attended)?;
            stream::add(own, &mut middle);
            bare = Some(attended);
        }
        let h = match self.residual {
            Residual::Sequential | Residual::Sandwich => self.norm(1)?.forward(&middle)?,
            Residual::Parallel => self.norm(1)?.forward(own)?,
            Residual::Shared => match args.wanted {
                Some(wanted) => wanted.pick(&h, d),
                None => h,
            },
        };
        let onto = (!sandwich).then_some(middle.as_slice());
        let (mut y, made) = self.mlp.forward(&h, onto, &pass)?;
        let bare = match bare {
            Some(attended) => {
                let mut normed = self.norm(3)?.forward(&y)?;
                stream::add(&middle, &mut normed);
                Some((attended, std::mem::replace(&mut y, normed)))
            }
            None => None,
        };
        let kept = BlockSaved {
            seen,
            made,
            middle,
            bare,
        };
        Ok((y, kept))
    }

    /// The gradients of a forward pass from `x` `[t, d]` for that of its result, `dy`.
    fn backward(
        &self,
        (x, kept): (&[f32], &BlockSaved),
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
            norms: vec![Gradients::new(); self.norms.len()],
        };
        // The norm that the MLP reads through and what goes into that, unless it shares
        // attention's.
        let into = match self.residual {
            Residual::Sequential | Residual::Sandwich => Some((1, kept.middle.as_slice())),
            Residual::Parallel => Some((1, own)),
            Residual::Shared => None,
        };
        let dh = backward.mlp(into, dy)?;
        // What reaches the block's own rows otherwise than through attention.
        let beside = match into {
            Some((i, x)) => Cow::Owned(backward.norm(i, x, &dh, Some(dy))?),
            None => Cow::Borrowed(dy),
        };
        let dmiddle = match self.residual {
            Residual::Sequential | Residual::Sandwich => &beside,
            Residual::Parallel | Residual::Shared => dy,
        };
        let below = wants_dx || self.norms.iter().any(|norm| !norm.variables().is_empty());
        let dnormed = backward.attention(dmiddle, below)?;
        let dx = match dnormed.filter(|_| below) {
            Some(dnormed) => Some(backward.input(dnormed, &dh, beside)?),
            None => None,
        };
        Ok(Gradient {
            dx: dx.filter(|_| wants_dx),
            params: backward.params(),
        })
    }
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
    norms: Vec<Gradients>,
}

impl Backward<'_> {
    /// Through norm `i`, which read `x`; `onto` is added to the result.
    fn norm(&mut self, i: usize, x: &[f32], dy: &[f32], onto: Option<&[f32]>) -> Result<Vec<f32>> {
        let gradients = &mut self.norms[i];
        self.block.norm(i)?.backward(x, dy, onto, gradients)
    }

    /// Through the MLP and the norm after it: from the gradient of the block's result to that of
    /// the MLP's input.
    fn mlp(&mut self, into: Option<(usize, &[f32])>, dy: &[f32]) -> Result<Vec<f32>> {
        let (block, kept, pass) = (self.block, self.kept, self.args.own());
        let dmade = match &kept.bare {
            Some((_, bare)) => Some(self.norm(3, bare, dy, None)?),
            None => None,
        };
        let normed = match (block.mlp.reads_input(&pass), into) {
            (false, _) => Vec::new(),
            (true, Some((i, x))) => block.norm(i)?.forward(x)?,
            (true, None) => block.norm(0)?.forward(self.own)?,
        };
        let read = (normed.as_slice(), &kept.made);
        let dout = dmade.as_deref().unwrap_or(dy);
        block
            .mlp
            .backward(read, dout, &pass, true, &mut self.mlp)?
            .ok_or_else(|| Error::invalid("a gradient was not computed"))
    }

    /// Through attention and the norm after it: from the gradient of the stream between to that
    /// of attention's input, which is computed if `below` says so.
    fn attention(&mut self, dmiddle: &[f32], below: bool) -> Result<Option<Vec<f32>>> {
        let (block, kept, args) = (self.block, self.kept, self.args);
        let dattended = match &kept.bare {
            Some((bare, _)) => Some(self.norm(2, bare, dmiddle, None)?),
            None => None,
        };
        let normed = match block.attention.reads_input(args.pass) {
            true => block.norm(0)?.forward(self.x)?,
            false => vec![0.0; 0],
        };
        let dout = dattended.as_deref().unwrap_or(dmiddle);
        let read = (normed.as_slice(), &kept.seen);
        block
            .attention
            .backward(read, dout, args, below, &mut self.attention)
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
        if self.block.residual == Residual::Shared {
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
        self.norm(0, x, &dnormed, Some(&beside))
    }

    /// The gradients of the variables, in the order of [`Block::variables`].
    fn params(self) -> Gradients {
        let all = self.attention.into_iter().chain(self.mlp);
        all.chain(self.norms.into_iter().flatten()).collect()
    }
}

/// The stream `x` `[t, d]` after `block`, number `layer`: of the wanted rows, if some are named.
/// `held` is what a backward pass will know of the pass.
pub(super) fn run(
    (layer, block): (usize, &Arc<Block>),
    x: &Tensor,
    cache: Option<&mut Cache>,
    (pass, held): (&Pass<'_>, &Arc<PassState>),
    wanted: Option<&Arc<LogitRows>>,
) -> Result<Tensor> {
    let (t, d) = x.dims2()?;
    let variables = block.variables(pass);
    let args = BlockArgs {
        pass,
        angles: held.angles.as_ref(),
        wanted: wanted.map(|wanted| &**wanted),
    };
    let (y, kept) = block.forward(layer, &ops::values(x)?, cache, &args)?;
    let shape = (wanted.map_or(t, |wanted| wanted.rows.len()), d);
    let tracked = x.track_op() || !variables.is_empty();
    let kept = Mutex::new(Some(kept).filter(|_| tracked && !held.recompute));
    let (block, held, wanted) = (block.clone(), held.clone(), wanted.cloned());
    ops::fused((x, &variables), (y, shape), move |x, dy, wants_dx| {
        let routes = held.routes();
        let pass = held.pass(&routes);
        let args = BlockArgs {
            pass: &pass,
            angles: held.angles.as_ref(),
            wanted: wanted.as_deref(),
        };
        // What was kept is let go as soon as it was used.
        let kept = match kept.lock().ok().and_then(|mut kept| kept.take()) {
            Some(kept) => kept,
            None => block.forward(layer, x, None, &args)?.1,
        };
        block.backward((x, &kept), dy, &args, wants_dx)
    })
}
