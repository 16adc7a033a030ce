//! The modules of a block, by the family's layout: as names, as sizes, or as what a backend makes
//! of them.

/// The modules of one block: linears `L` and norms `N`.
#[derive(Debug, Clone)]
pub(in crate::backbone) struct Layout<L, N> {
    pub(in crate::backbone) qkv: Qkv<L>,
    /// Norms of the heads of q and k.
    pub(in crate::backbone) qk_norms: Option<[N; 2]>,
    /// Output of attention.
    pub(in crate::backbone) out: L,
    pub(in crate::backbone) up: Up<L>,
    /// Output of the MLP.
    pub(in crate::backbone) down: L,
    pub(in crate::backbone) norms: Norms<N>,
}

impl<L, N> Layout<L, N> {
    /// The linears: q, k, v (or one), the output, the MLP's.
    pub(in crate::backbone) fn linears(&self) -> impl Iterator<Item = &L> {
        let attention = self.qkv.linears().iter().chain([&self.out]);
        attention.chain(self.up.linears()).chain([&self.down])
    }

    /// The modules that `linear` and `norm` make of these.
    ///
    /// # Errors
    /// The first of theirs.
    pub(in crate::backbone) fn map<M, O, E>(
        self,
        linear: impl Fn(L) -> Result<M, E>,
        norm: impl Fn(N) -> Result<O, E>,
    ) -> Result<Layout<M, O>, E> {
        Ok(Layout {
            qkv: self.qkv.map(&linear)?,
            qk_norms: match self.qk_norms {
                Some([q, k]) => Some([norm(q)?, norm(k)?]),
                None => None,
            },
            out: linear(self.out)?,
            up: self.up.map(&linear)?,
            down: linear(self.down)?,
            norms: self.norms.map(&norm)?,
        })
    }
}

/// The projections of q, k and v.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backbone) enum Qkv<L> {
    /// A matrix each.
    Separate([L; 3]),
    /// One matrix: all of q, all of k, all of v.
    Fused(L),
    /// One matrix: q, k and v of head 0, then of head 1, ... (GPT-NeoX).
    Interleaved(L),
}

impl<L> Qkv<L> {
    pub(in crate::backbone) fn linears(&self) -> &[L] {
        match self {
            Qkv::Separate(all) => all,
            Qkv::Fused(all) | Qkv::Interleaved(all) => std::slice::from_ref(all),
        }
    }

    fn map<M, E>(self, f: impl Fn(L) -> Result<M, E>) -> Result<Qkv<M>, E> {
        Ok(match self {
            Qkv::Separate([q, k, v]) => Qkv::Separate([f(q)?, f(k)?, f(v)?]),
            Qkv::Fused(all) => Qkv::Fused(f(all)?),
            Qkv::Interleaved(all) => Qkv::Interleaved(f(all)?),
        })
    }
}

/// The matrices before the activation of an MLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backbone) enum Up<L> {
    /// Up alone.
    Plain(L),
    /// Gate and up.
    Gated([L; 2]),
    /// Gate and up in one matrix, gate first.
    Fused(L),
}

impl<L> Up<L> {
    pub(in crate::backbone) fn linears(&self) -> &[L] {
        match self {
            Up::Gated(both) => both,
            Up::Plain(one) | Up::Fused(one) => std::slice::from_ref(one),
        }
    }

    fn map<M, E>(self, f: impl Fn(L) -> Result<M, E>) -> Result<Up<M>, E> {
        Ok(match self {
            Up::Plain(up) => Up::Plain(f(up)?),
            Up::Gated([gate, up]) => Up::Gated([f(gate)?, f(up)?]),
            Up::Fused(both) => Up::Fused(f(both)?),
        })
    }
}

/// The norms of a block, and so its residual layout.
#[derive(Debug, Clone)]
pub(in crate::backbone) enum Norms<N> {
    /// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
    Sequential { attention: N, mlp: N },
    /// `x + attention(norm(x)) + mlp(norm'(x))`.
    Parallel { attention: N, mlp: N },
    /// `x + attention(norm(x)) + mlp(norm(x))`, one norm for both (Phi).
    Shared(N),
    /// Sequential, with another norm over the outputs of attention and MLP (Gemma 2).
    Sandwich {
        attention: N,
        mlp: N,
        after_attention: N,
        after_mlp: N,
    },
}

impl<N> Norms<N> {
    /// The norm that attention reads through.
    pub(in crate::backbone) fn attention(&self) -> &N {
        match self {
            Norms::Sequential { attention, .. }
            | Norms::Parallel { attention, .. }
            | Norms::Shared(attention)
            | Norms::Sandwich { attention, .. } => attention,
        }
    }

    /// All of them: attention's, the MLP's, those after.
    pub(in crate::backbone) fn all(&self) -> Vec<&N> {
        match self {
            Norms::Shared(one) => vec![one],
            Norms::Sequential { attention, mlp } | Norms::Parallel { attention, mlp } => {
                vec![attention, mlp]
            }
            Norms::Sandwich {
                attention,
                mlp,
                after_attention,
                after_mlp,
            } => vec![attention, mlp, after_attention, after_mlp],
        }
    }

    fn map<O, E>(self, f: impl Fn(N) -> Result<O, E>) -> Result<Norms<O>, E> {
        Ok(match self {
            Norms::Sequential { attention, mlp } => Norms::Sequential {
                attention: f(attention)?,
                mlp: f(mlp)?,
            },
            Norms::Parallel { attention, mlp } => Norms::Parallel {
                attention: f(attention)?,
                mlp: f(mlp)?,
            },
            Norms::Shared(one) => Norms::Shared(f(one)?),
            Norms::Sandwich {
                attention,
                mlp,
                after_attention,
                after_mlp,
            } => Norms::Sandwich {
                attention: f(attention)?,
                mlp: f(mlp)?,
                after_attention: f(after_attention)?,
                after_mlp: f(after_mlp)?,
            },
        })
    }
}
