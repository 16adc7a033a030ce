//! Attention with its matrices, forward and backward.

use std::sync::Arc;

use candle_core::Tensor;
use lyceum_kernels::attention::{self as kernel, Heads, Part, Rows, Span, Stretch};
use lyceum_kernels::rope::{self, Angles, Rotation};
use lyceum_kernels::stream;

use super::cache::Cache;
use super::logit_rows::LogitRows;
use super::norm::Norm;
use crate::backbone::config::layout::Qkv;
use crate::error::Result;
use crate::mix::{Gradients, LinearInput, Pass, Routed, RoutedLinear};

/// Attention of one block.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    /// The number of its block.
    pub(super) layer: usize,
    pub(super) qkv: Qkv<RoutedLinear>,
    /// Norms of the heads of q and k.
    pub(super) norms: Option<[Norm; 2]>,
    pub(super) heads: Heads,
    pub(super) out: RoutedLinear,
}

/// The inputs of a forward pass besides the residual stream.
pub(super) struct BlockArgs<'a> {
    pub(super) pass: &'a Pass<'a>,
    /// RoPE cos/sin per token; `None` with learned positions.
    pub(super) angles: Option<&'a Arc<Angles>>,
    /// The tokens whose result is wanted; all when absent.
    pub(super) wanted: Option<&'a Arc<LogitRows>>,
}

impl<'a> BlockArgs<'a> {
    /// The pass over the tokens whose result is wanted.
    pub(super) fn own(&self) -> Pass<'a> {
        let seq_lens = self.wanted.map_or(self.pass.seq_lens, |w| &w.seq_lens);
        Pass {
            seq_lens,
            ..*self.pass
        }
    }
}

/// Intermediates of the forward pass that the backward pass reads.
#[derive(Debug)]
pub(super) struct AttentionSaved {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// q and k before their norms.
    plain: Option<(Vec<f32>, Vec<f32>)>,
    /// Decisions at q, k and v, or at the one matrix for all.
    qkv: [Option<Routed>; 3],
    seen: Vec<f32>,
    out: Option<Routed>,
}

/// Attention's input in a forward pass, and what that pass kept.
#[derive(Clone, Copy)]
pub(super) struct AttentionInput<'a> {
    /// `[t, d]`.
    pub(super) x: &'a [f32],
    pub(super) kept: &'a AttentionSaved,
}

/// q, k and v, and what each matrix's experts decided.
type Projected = ([Vec<f32>; 3], [Option<Routed>; 3]);

/// The columns of q, k and v in a row of their one matrix: pieces of (which, values).
type Columns = Vec<(usize, usize)>;

impl Attention {
    /// The trainable tensors, in the order of the gradients.
    pub(super) fn variables(&self, pass: &Pass<'_>) -> Vec<Tensor> {
        let linears = self.qkv.linears().iter().chain([&self.out]);
        let mut all: Vec<Tensor> = linears.flat_map(|l| l.variables(pass)).collect();
        if let Some([q, k]) = &self.norms {
            all.extend(q.variables());
            all.extend(k.variables());
        }
        all
    }

    /// Returns `true` if the backward pass reads the input.
    pub(super) fn reads_input(&self, pass: &Pass<'_>) -> bool {
        self.qkv.linears().iter().any(|l| l.reads_input(pass))
    }

    /// q of the wanted rows, k and v of all, `[.., heads * dim]`, of `x` `[t, d]`.
    fn project(&self, x: &[f32], args: &BlockArgs<'_>) -> Result<Projected> {
        match &self.qkv {
            Qkv::Separate([q, k, v]) => {
                let d = x.len() / args.pass.seq_lens.tokens().max(1);
                let own = args.wanted.map(|wanted| wanted.pick(x, d));
                let (q, by_q) = q.forward(own.as_deref().unwrap_or(x), None, &args.own())?;
                let (k, by_k) = k.forward(x, None, args.pass)?;
                let (v, by_v) = v.forward(x, None, args.pass)?;
                Ok(([q, k, v], [by_q, by_k, by_v]))
            }
            Qkv::Fused(all) => self.project_one(all, &self.fused(), x, args),
            Qkv::Interleaved(all) => self.project_one(all, &self.interleaved(), x, args),
        }
    }

    /// As [`Attention::project`], by one matrix with these columns.
    fn project_one(
        &self,
        all: &RoutedLinear,
        columns: &Columns,
        x: &[f32],
        args: &BlockArgs<'_>,
    ) -> Result<Projected> {
        let (all, by) = all.forward(x, None, args.pass)?;
        let [mut q, k, v] = apart(&all, columns);
        if let Some(wanted) = args.wanted {
            q = wanted.pick(&q, self.heads.width());
        }
        Ok(([q, k, v], [by, None, None]))
    }

    fn fused(&self) -> Columns {
        let (q, kv) = (self.heads.width(), self.heads.kv_width());
        vec![(0, q), (1, kv), (2, kv)]
    }

    fn interleaved(&self) -> Columns {
        let columns = 0..3 * self.heads.heads;
        columns.map(|i| (i % 3, self.heads.dim)).collect()
    }

    fn rotate(
        &self,
        x: Vec<f32>,
        heads: usize,
        angles: Option<&Arc<Angles>>,
        rotation: Rotation,
    ) -> Vec<f32> {
        match angles {
            Some(angles) => rope::rotate(&x, angles, heads, self.heads.dim, rotation),
            None => x,
        }
    }

    /// Of `x` `[t, d]` what attention makes of the wanted rows, added to `onto`, if any.
    pub(super) fn forward(
        &self,
        x: &[f32],
        onto: Option<&[f32]>,
        cache: Option<&mut Cache>,
        args: &BlockArgs<'_>,
    ) -> Result<(Vec<f32>, AttentionSaved)> {
        let ([mut q, mut k, v], qkv) = self.project(x, args)?;
        let mut plain = None;
        if let Some([q_norm, k_norm]) = &self.norms {
            let normed = (q_norm.forward(&q)?, k_norm.forward(&k)?);
            plain = Some((q, k));
            (q, k) = normed;
        }
        let Heads {
            heads, kv_heads, ..
        } = self.heads;
        let own = match (args.angles, args.wanted) {
            (Some(angles), Some(wanted)) => Some(wanted.angles(angles)),
            (angles, _) => angles.cloned(),
        };
        q = self.rotate(q, heads, own.as_ref(), Rotation::Forward);
        k = self.rotate(k, kv_heads, args.angles, Rotation::Forward);
        let seen = match cache {
            Some(cache) => {
                cache.append(self.layer, &k, &v, args.pass.seq_lens.lens());
                let sequences = self.stretches(args);
                let span = |(i, own): (usize, &Stretch)| {
                    cache.span(self.layer, i, own.rows, own.keys - own.before - own.rows)
                };
                let spans: Vec<Span<'_>> = sequences.iter().enumerate().map(span).collect();
                kernel::forward(&q, &spans, &self.heads)
            }
            None => kernel::forward(&q, &self.spans(&k, &v, args), &self.heads),
        };
        let (y, out) = self.out.forward(&seen, onto, &args.own())?;
        let kept = AttentionSaved {
            q,
            k,
            v,
            plain,
            qkv,
            seen,
            out,
        };
        Ok((y, kept))
    }

    /// Queries and new keys of every sequence.
    fn stretches(&self, args: &BlockArgs<'_>) -> Vec<Stretch> {
        let lens = args.pass.seq_lens.lens().iter();
        match args.wanted {
            None => lens.map(|&len| Stretch::whole(len)).collect(),
            Some(wanted) => {
                let own = wanted.before.iter().zip(wanted.seq_lens.lens().iter());
                let own = lens.zip(own);
                own.map(|(&keys, (&before, &rows))| Stretch { before, rows, keys })
                    .collect()
            }
        }
    }

    fn spans<'a>(&self, k: &'a [f32], v: &'a [f32], args: &BlockArgs<'_>) -> Vec<Span<'a>> {
        let (width, mut start) = (self.heads.kv_width(), 0);
        let span = |own: Stretch| {
            let range = start * width..(start + own.before + own.rows) * width;
            start += own.keys;
            let part = Part {
                k: Rows::F32(&k[range.clone()]),
                v: Rows::F32(&v[range]),
            };
            Span {
                rows: own.rows,
                parts: vec![part],
            }
        };
        self.stretches(args).into_iter().map(span).collect()
    }

    /// Puts the gradient of `x` for that of the result `dy` into `dx`, if wanted; those of the
    /// variables are pushed. `x` is read only if [`Attention::reads_input`] says so.
    pub(super) fn backward(
        &self,
        read: AttentionInput<'_>,
        dy: &[f32],
        args: &BlockArgs<'_>,
        dx: Option<&mut Vec<f32>>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let kept = read.kept;
        let AttentionSaved { q, k, v, .. } = kept;
        let (mut out, mut norms) = (Gradients::new(), Gradients::new());
        let seen = LinearInput {
            x: &kept.seen,
            routed: kept.out.as_ref(),
        };
        let mut dout = Vec::new();
        let own = args.own();
        self.out
            .backward(seen, dy, &own, Some(&mut dout), &mut out)?;
        let qkv = kernel::Qkv { q, k, v };
        let own = kernel::backward(qkv, &dout, &self.stretches(args), &self.heads);
        let kernel::Gradients { mut dq, mut dk, dv } = own;
        drop(dout);
        let own = match (args.angles, args.wanted) {
            (Some(angles), Some(wanted)) => Some(wanted.angles(angles)),
            (angles, _) => angles.cloned(),
        };
        dq = self.rotate(dq, self.heads.heads, own.as_ref(), Rotation::Back);
        dk = self.rotate(dk, self.heads.kv_heads, args.angles, Rotation::Back);
        if let (Some([q_norm, k_norm]), Some((q, k))) = (&self.norms, &kept.plain) {
            dq = q_norm.backward(q, &dq, None, &mut norms)?;
            dk = k_norm.backward(k, &dk, None, &mut norms)?;
        }
        let back = QkvBackward {
            read,
            dqkv: [dq, dk, dv],
            args,
        };
        match &self.qkv {
            Qkv::Separate(linears) => back.separate(linears, dx, gradients)?,
            Qkv::Fused(all) => back.one(all, &self.fused(), dx, gradients)?,
            Qkv::Interleaved(all) => back.one(all, &self.interleaved(), dx, gradients)?,
        }
        gradients.extend(out.into_iter().chain(norms));
        Ok(())
    }
}

/// q, k and v from the rows of their one matrix.
fn apart(all: &[f32], columns: &Columns) -> [Vec<f32>; 3] {
    let width: usize = columns.iter().map(|(_, n)| n).sum();
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for row in all.chunks(width) {
        let mut at = 0;
        for (which, n) in columns {
            parts[*which].extend_from_slice(&row[at..at + n]);
            at += n;
        }
    }
    parts
}

/// The inverse of [`apart`].
fn together(parts: [&[f32]; 3], columns: &Columns) -> Vec<f32> {
    let mut rests = parts;
    let mut all = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    while !rests[0].is_empty() {
        for (which, n) in columns {
            let (own, rest) = rests[*which].split_at(*n);
            all.extend_from_slice(own);
            rests[*which] = rest;
        }
    }
    all
}

/// A backward pass through the projections of q, k and v.
struct QkvBackward<'a> {
    read: AttentionInput<'a>,
    /// The gradients of q, of the wanted rows, and of k and v.
    dqkv: [Vec<f32>; 3],
    args: &'a BlockArgs<'a>,
}

impl QkvBackward<'_> {
    /// By three matrices.
    fn separate(
        &self,
        linears: &[RoutedLinear; 3],
        mut dx: Option<&mut Vec<f32>>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let (args, AttentionInput { x, kept }) = (self.args, self.read);
        let t = args.pass.seq_lens.tokens().max(1);
        let mut all = [Gradients::new(), Gradients::new(), Gradients::new()];
        // q last: with some rows wanted its gradient is not one of all rows.
        for i in [1, 2, 0] {
            let some = args.wanted.filter(|_| i == 0);
            let own = some.map(|wanted| wanted.pick(x, x.len() / t));
            let pass = if i == 0 { args.own() } else { *args.pass };
            let read = LinearInput {
                x: own.as_deref().unwrap_or(x),
                routed: kept.qkv[i].as_ref(),
            };
            let mut own_dx = dx.is_some().then(Vec::new);
            linears[i].backward(read, &self.dqkv[i], &pass, own_dx.as_mut(), &mut all[i])?;
            let (Some(sum), Some(dx)) = (&mut dx, own_dx) else {
                continue;
            };
            match (i, some) {
                (1, _) => **sum = dx,
                (_, Some(wanted)) => wanted.put_back(&dx, sum.len() / t, sum),
                (_, None) => stream::add(&dx, sum),
            }
        }
        gradients.extend(all.into_iter().flatten());
        Ok(())
    }

    /// By one matrix with these columns.
    fn one(
        self,
        all: &RoutedLinear,
        columns: &Columns,
        dx: Option<&mut Vec<f32>>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let [mut dq, dk, dv] = self.dqkv;
        let pass = self.args.pass;
        if let Some(wanted) = self.args.wanted {
            let width: usize = columns
                .iter()
                .filter(|(to, _)| *to == 0)
                .map(|(_, n)| n)
                .sum();
            let mut full = vec![0.0; pass.seq_lens.tokens() * width];
            wanted.put_back(&dq, width, &mut full);
            dq = full;
        }
        let dall = together([&dq, &dk, &dv], columns);
        let read = LinearInput {
            x: self.read.x,
            routed: self.read.kept.qkv[0].as_ref(),
        };
        all.backward(read, &dall, pass, dx, gradients)
    }
}
