//! A frozen linear layer that experts may adapt.

use std::ops::Range;

use candle_core::Tensor;
use lyceum_kernels::gemm::Then;
use lyceum_kernels::lora::Activations;
use lyceum_kernels::stream;

use super::{Gates, Input, Mixing, Mixture, Pass, Route, SiteBank, Vector, Weight};
use crate::error::{Context, Error, Result};
use crate::name::Site;

/// The gradients of a module's variables, in the order it lists them.
pub(crate) type Gradients = Vec<Vec<f32>>;

/// The gates and intermediates of a linear layer's experts, route by route.
#[derive(Debug)]
pub(crate) struct Routed(Vec<Part>);

/// The gates and intermediates of the experts of one route.
#[derive(Debug)]
struct Part {
    gates: Gates,
    h: Vec<f32>,
}

/// A layer's input in a forward pass, and how it was routed.
#[derive(Clone, Copy)]
pub(crate) struct LinearInput<'a> {
    /// `[t, d_in]`.
    pub(crate) x: &'a [f32],
    /// As [`RoutedLinear::forward`] returned it.
    pub(crate) routed: Option<&'a Routed>,
}

/// The experts of one route at one layer.
pub(super) struct Experts<'a> {
    pub(super) route: &'a Route<'a>,
    pub(super) bank: &'a SiteBank,
    /// The rows of the route's sequences among all tokens.
    pub(super) rows: Range<usize>,
}

impl Experts<'_> {
    fn mixing(&self) -> Mixing {
        self.route.mixture.mixing
    }

    /// The route's rows of `x`, rows of `d` values.
    fn of<'b>(&self, x: &'b [f32], d: usize) -> &'b [f32] {
        &x[self.rows.start * d..self.rows.end * d]
    }

    /// Of `y`, rows of `d` values from `first` on, those of the route: the number of the first
    /// among the route's rows, and the values.
    fn within<'b>(
        &self,
        first: usize,
        y: &'b mut [f32],
        d: usize,
    ) -> Option<(usize, &'b mut [f32])> {
        let start = first.max(self.rows.start);
        let end = (first + y.len() / d.max(1)).min(self.rows.end);
        let own = start < end;
        own.then(|| {
            (
                start - self.rows.start,
                &mut y[(start - first) * d..(end - first) * d],
            )
        })
    }
}

/// The experts of every route that adapts the layer at `site`.
pub(super) fn experts<'a>(site: &Site, pass: &Pass<'a>) -> Vec<Experts<'a>> {
    let experts = |route: &'a Route<'a>| {
        Some(Experts {
            bank: route.mixture.bank.site(site)?,
            rows: pass.rows(route),
            route,
        })
    };
    pass.routes.iter().filter_map(experts).collect()
}

/// A linear layer: the base's own output plus what the pass's experts add to it.
#[derive(Debug, Clone)]
pub(crate) struct RoutedLinear {
    pub(super) site: Site,
    pub(super) weight: Weight,
    pub(super) bias: Option<Vector>,
}

impl RoutedLinear {
    pub(crate) fn new(site: Site, weight: Weight, bias: Option<Vector>) -> Self {
        RoutedLinear { site, weight, bias }
    }

    /// The experts of every route that adapts this layer.
    fn experts<'a>(&self, pass: &Pass<'a>) -> Vec<Experts<'a>> {
        experts(&self.site, pass)
    }

    /// The trainable tensors of this layer: the matrix, the bias, and of each route the experts'
    /// factors and the router's parameters.
    pub(crate) fn variables(&self, pass: &Pass<'_>) -> Vec<Tensor> {
        let own = [
            self.weight.variable(),
            self.bias.as_ref().and_then(Vector::variable),
        ];
        let experts = self.experts(pass);
        let routed = experts.iter().flat_map(|own| {
            let router = own.route.mixture.router.params(&self.site);
            [own.bank.params(), router]
        });
        own.into_iter().chain(routed).flatten().cloned().collect()
    }

    /// Returns `true` if [`RoutedLinear::backward`] reads the input.
    pub(crate) fn reads_input(&self, pass: &Pass<'_>) -> bool {
        !self.variables(pass).is_empty()
    }

    /// `W x + bias + delta`, and `onto`, if any: x `[t, d_in]`, result and `onto` `[t, d_out]`.
    ///
    /// # Errors
    /// When widths disagree or the router cannot decide.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        onto: Option<&[f32]>,
        pass: &Pass<'_>,
    ) -> Result<(Vec<f32>, Option<Routed>)> {
        let bias = self.bias.as_ref();
        let experts = self.experts(pass);
        if experts.is_empty() {
            return Ok((self.weight.forward(x, bias, onto, None)?, None));
        }
        let (d_out, d_in) = self.weight.shape()?;
        if x.len() != pass.seq_lens.tokens() * d_in {
            let text = format!("{} values for rows of {d_in} at {}", x.len(), self.site);
            return Err(Error::Mismatch(text));
        }
        let part = |own: &Experts<'_>| self.part(own, own.of(x, d_in), pass);
        let parts = experts.iter().map(part).collect::<Result<Vec<_>>>()?;
        let then = |first: usize, y: &mut [f32]| {
            for (own, Part { gates, h }) in experts.iter().zip(&parts) {
                if let Some((first, y)) = own.within(first, y, d_out) {
                    own.bank.delta(gates, own.mixing()).expand(h, first, y);
                }
            }
        };
        let y = self.weight.forward(x, bias, onto, Some(&then))?;
        Ok((y, Some(Routed(parts))))
    }

    /// The gates of one route for its rows `x`, and `A x` of the chosen experts.
    fn part(&self, own: &Experts<'_>, x: &[f32], pass: &Pass<'_>) -> Result<Part> {
        let Mixture { router, mixing, .. } = own.route.mixture;
        let gates = pass.limited(own.route, |pass| {
            let gates = router
                .gates(&self.site, Input::Host(x), pass)?
                .into_gates()?;
            match pass.probe {
                Some(probe) => probe.see(&self.site, &gates, pass).map(|()| gates),
                None => Ok(gates),
            }
        })?;
        let fits = { own.bank }.check(x.len(), self.weight.d_out()?, &gates, *mixing);
        fits.context(|| format!("at {}", self.site))?;
        let h = own.bank.delta(&gates, *mixing).shrink(x);
        Ok(Part { gates, h })
    }

    /// Gradients for `dy` `[t, d_out]`: that of the input is put into `dx`, if wanted; those of the
    /// variables are pushed in their order. `x` is read only if [`RoutedLinear::reads_input`] says
    /// so.
    ///
    /// # Errors
    /// When a product fails.
    pub(crate) fn backward(
        &self,
        read: LinearInput<'_>,
        dy: &[f32],
        pass: &Pass<'_>,
        mut dx: Option<&mut Vec<f32>>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let LinearInput { x, routed } = read;
        let (experts, Some(Routed(parts))) = (self.experts(pass), routed) else {
            return self.bare_backward(x, dy, None, dx, gradients);
        };
        let (d_out, d_in) = self.weight.shape()?;
        let experts = || experts.iter().zip(parts);
        let back = |(own, Part { gates, h }): (&Experts<'_>, &Part)| {
            let dy = own.of(dy, d_out);
            own.bank.delta(gates, own.mixing()).shrink_backward(h, dy)
        };
        let backs: Vec<_> = experts().map(back).collect();
        let then = |first: usize, dx: &mut [f32]| {
            for ((own, part), (dh, _)) in experts().zip(&backs) {
                if let Some((first, dx)) = own.within(first, dx, d_in) {
                    let delta = own.bank.delta(&part.gates, own.mixing());
                    delta.expand_backward(dh, first, dx);
                }
            }
        };
        self.bare_backward(x, dy, Some(&then), dx.as_deref_mut(), gradients)?;
        for ((own, Part { gates, h }), (dh, dweights)) in experts().zip(&backs) {
            let trained = own.bank.params().is_some();
            let router = &own.route.mixture.router;
            let routed = router.params(&self.site).is_some();
            if !trained && !routed {
                continue;
            }
            let (x, dy) = (own.of(x, d_in), own.of(dy, d_out));
            let kept = Activations { x, h, dh, dy };
            gradients.extend(own.bank.backward(&kept, gates, own.mixing()));
            if routed {
                let dx = dx.as_deref_mut();
                let dx = dx.map(|dx| &mut dx[own.rows.start * d_in..own.rows.end * d_in]);
                gradients.push(router.backward(&self.site, x, gates, dweights, dx)?);
            }
        }
        Ok(())
    }

    /// [`RoutedLinear::backward`] of the base's own matrix and bias; `then` is done with all rows
    /// of the gradient of the input.
    fn bare_backward(
        &self,
        x: &[f32],
        dy: &[f32],
        then: Option<Then<'_>>,
        dx: Option<&mut Vec<f32>>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        if let Some(dx) = dx {
            *dx = self.weight.backward(dy, then)?;
        }
        gradients.extend(self.weight.gradient(x, dy)?);
        if self.bias.as_ref().and_then(Vector::variable).is_some() {
            gradients.push(stream::columns(dy, self.weight.shape()?.0));
        }
        Ok(())
    }
}
