//! Rotary positions as `config.json` says them: a base, a part of each head, and one or two objects
//! about how the context was stretched, which may contradict each other.

use std::f64::consts::PI;

use super::fields::Fields;
use super::rope::{Rope, Scaling};
use super::types::{Config, Positions};
use crate::error::Result;

/// Names and capabilities of a family's RoPE fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    /// Width of a head.
    pub(super) dim: usize,
    /// The field of the base, beside `rope_parameters`.
    pub(super) theta: &'static str,
    /// The field of the part of a head that turns, beside `rope_parameters`.
    pub(super) partial: &'static str,
    /// `true` if the family reads that field.
    pub(super) reads_partial: bool,
    /// `true` if the family supports longrope only (Phi-3, whose older files call it su or yarn).
    pub(super) only_long: bool,
}

/// Values beside `rope_parameters`, used where that object lacks them.
struct Beside {
    context: Context,
    theta: f64,
    partial: f64,
    /// `max_position_embeddings`.
    positions: usize,
    /// `original_max_position_embeddings`, and whether the file says it.
    original: Option<usize>,
    original_said: bool,
}

/// One reading of the fields.
struct Reading {
    rope: Rope,
    longest: usize,
    /// `true` if the object itself gives the base, or the rotated part.
    theta_said: bool,
    partial_said: bool,
}

impl Rope {
    /// Reads the base, `rope_scaling` and `rope_parameters` (which holds both), and how many
    /// positions the decoder then has, into `config`.
    ///
    /// If both objects are present, `rope_scaling` takes the place of `rope_parameters`, as in
    /// transformers 5.
    pub(super) fn take(fields: &mut Fields, config: &mut Config, context: Context) -> Result<()> {
        let (theta_said, partial_said) = (fields.says(context.theta), fields.says(context.partial));
        let original_said = fields.says("original_max_position_embeddings");
        let beside = Beside {
            context,
            theta: fields.number(context.theta)?,
            partial: fields.number_maybe(context.partial)?.unwrap_or(1.0),
            positions: fields.size("max_position_embeddings")?,
            original: fields.size_maybe("original_max_position_embeddings")?,
            original_said,
        };
        let newer = fields.object("rope_parameters")?;
        let older = fields.object("rope_scaling")?;
        let reading = match (older, newer) {
            (None, None) => beside.plain(),
            (Some(one), None) | (None, Some(one)) => beside.read(fields, one)?,
            (Some(older), Some(newer)) => beside.settle(fields, older, newer)?,
        };
        let rope = reading.rope;
        let theta_said = theta_said && rope.theta.to_bits() != beside.theta.to_bits();
        let partial_said = partial_said && rope.dims != beside.dims(beside.partial);
        let part = rope.dims as f64 / context.dim as f64;
        for (lost, name, other, counts) in [
            (theta_said, context.theta, beside.theta, rope.theta),
            (partial_said, context.partial, beside.partial, part),
        ] {
            if lost {
                fields.note(format!(
                    "`{name}` is {other}, and in `rope_parameters` or `rope_scaling` it is \
                     {counts}, which counts, as in transformers 5"
                ));
            }
        }
        if !context.reads_partial && rope.dims != context.dim {
            fields.note(format!(
                "only {} of {} values of a head turn (`{}`); transformers' own {} leaves that out",
                rope.dims, context.dim, context.partial, config.model_type
            ));
        }
        let fits = (2..=context.dim).contains(&rope.dims) && rope.dims.is_multiple_of(2);
        if rope.theta <= 1.0 || !fits {
            let (dims, dim) = (rope.dims, context.dim);
            return Err(fields.bad(format!(
                "rotary positions over {dims} of {dim} values with base {}",
                rope.theta
            )));
        }
        config.positions = Positions::Rotary(rope);
        config.max_position_embeddings = reading.longest;
        Ok(())
    }

    fn scaling_of(&self, inner: &mut Fields, beside: &Beside) -> Result<(Scaling, usize)> {
        let kind = kind(inner, beside.context.only_long)?;
        let positions = beside.positions;
        let stretched = |n: usize, factor: f64| ((n as f64 * factor) as usize).max(positions);
        let original = "original_max_position_embeddings";
        Ok(match kind.as_str() {
            "default" => {
                inner.unused(original, "nothing is stretched");
                (Scaling::Default, positions)
            }
            "linear" => {
                let factor = inner.number("factor")?;
                inner.unused(original, "linear has no use for it");
                (Scaling::Linear { factor }, stretched(positions, factor))
            }
            "dynamic" => {
                let factor = inner.number("factor")?;
                let why = "dynamic goes by max_position_embeddings, as in transformers";
                inner.again_or_unused(original, positions, why)?;
                let original = positions;
                let scaling = Scaling::Dynamic { factor, original };
                (scaling, stretched(positions, factor))
            }
            "llama3" => (llama3(inner, beside)?, positions),
            "yarn" => {
                let original = beside.original(inner)?;
                let factor = match inner.says("factor") {
                    true => inner.number("factor")?,
                    false if inner.null("factor") => positions as f64 / original as f64,
                    false => return Err(inner.bad("field `factor` is missing")),
                };
                (
                    self.yarn(inner, factor, original)?,
                    stretched(original, factor),
                )
            }
            "longrope" | "su" => (self.long_rope(inner, beside)?, positions),
            other => {
                return Err(inner.bad(format!(
                    "rope_type `{other}` is not supported; supported: default, linear, dynamic, \
                     llama3, yarn, longrope"
                )));
            }
        })
    }

    fn yarn(&self, inner: &mut Fields, factor: f64, original: usize) -> Result<Scaling> {
        let given = inner.number_maybe("attention_factor")?;
        let scales = (
            inner.number_but_zero("mscale")?,
            inner.number_but_zero("mscale_all_dim")?,
        );
        let sharpness = |by: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * by * factor.ln() + 1.0
            }
        };
        let attention = given.unwrap_or(match scales {
            (Some(one), Some(all)) => sharpness(one) / sharpness(all),
            _ => sharpness(1.0),
        });
        // The pair that makes `turns` turns over the original context.
        let pair = |turns: f64| {
            let dims = self.dims as f64;
            dims * (original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let mut low = pair(inner.number_but_zero("beta_fast")?.unwrap_or(32.0));
        let mut high = pair(inner.number_but_zero("beta_slow")?.unwrap_or(1.0));
        if inner.flag_maybe("truncate")?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        let ramp = (low.max(0.0), high.min(self.dims as f64 - 1.0));
        Ok(Scaling::Yarn {
            factor,
            attention,
            ramp,
            original,
        })
    }

    fn long_rope(&self, inner: &mut Fields, beside: &Beside) -> Result<Scaling> {
        let original = beside.original(inner)?;
        let given = inner.number_maybe("attention_factor")?;
        let factor = inner.number_maybe("factor")?;
        let factor = factor.unwrap_or(beside.positions as f64 / original as f64);
        let attention = given.unwrap_or(match factor > 1.0 && original > 1 {
            true => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
            false => 1.0,
        });
        let divisors = |inner: &mut Fields, name: &str| -> Result<Vec<f64>> {
            let all: Vec<f64> = inner.list(name, "numbers")?.unwrap_or_default();
            let fine = all.len() == self.dims / 2 && all.iter().all(|x| *x > 0.0);
            match fine {
                true => Ok(all),
                false => Err(inner.bad(format!(
                    "`{name}` must hold {} numbers above 0",
                    self.dims / 2
                ))),
            }
        };
        Ok(Scaling::LongRope {
            short: divisors(inner, "short_factor")?,
            long: divisors(inner, "long_factor")?,
            attention,
            original,
        })
    }
}

impl Beside {
    /// Nothing stretched.
    fn plain(&self) -> Reading {
        Reading {
            rope: Rope {
                dims: self.dims(self.partial),
                theta: self.theta,
                scaling: Scaling::Default,
            },
            longest: self.positions,
            theta_said: false,
            partial_said: false,
        }
    }

    /// The values of a head that turn.
    fn dims(&self, partial: f64) -> usize {
        (self.context.dim as f64 * partial) as usize
    }

    /// Reads one of the two objects.
    fn read(&self, fields: &mut Fields, mut inner: Fields) -> Result<Reading> {
        let mut reading = self.plain();
        reading.theta_said = inner.says("rope_theta");
        reading.partial_said = inner.says("partial_rotary_factor");
        let rope = &mut reading.rope;
        rope.theta = inner.number_maybe("rope_theta")?.unwrap_or(self.theta);
        let partial = inner.number_maybe("partial_rotary_factor")?;
        rope.dims = self.dims(partial.unwrap_or(self.partial));
        (rope.scaling, reading.longest) = rope.scaling_of(&mut inner, self)?;
        fields.absorb(inner)?;
        Ok(reading)
    }

    /// Combines both objects.
    fn settle(&self, fields: &mut Fields, older: Fields, newer: Fields) -> Result<Reading> {
        let wins = self.read(fields, older)?;
        let loses = self.read(fields, newer)?;
        let theta = !wins.theta_said && wins.rope.theta.to_bits() != loses.rope.theta.to_bits();
        let part = !wins.partial_said && wins.rope.dims != loses.rope.dims;
        if theta || part {
            let name = match theta {
                true => "rope_theta",
                false => "partial_rotary_factor",
            };
            return Err(fields.bad(format!(
                "fields `rope_scaling` and `rope_parameters` contradict each other: rope_scaling \
                 takes the place of rope_parameters, whose `{name}` would be lost; write \
                 `{name}` into rope_scaling, or move what rope_scaling says into rope_parameters"
            )));
        }
        if wins.rope != loses.rope {
            fields.note(
                "`rope_scaling` and `rope_parameters` say different things: rope_scaling counts, as \
                 in transformers 5",
            );
        }
        Ok(wins)
    }

    /// Positions of the original training: the field beside the object counts before the one in
    /// it, and where neither is there nothing was stretched.
    fn original(&self, inner: &mut Fields) -> Result<usize> {
        let inside = inner.size_maybe("original_max_position_embeddings")?;
        match (self.original, inside) {
            (Some(beside), Some(inside)) if beside != inside && !self.original_said => Err(inner
                .bad(format!(
                    "`original_max_position_embeddings` is {inside} here, and the field of that \
                     name beside it, which counts, is {beside} where it is left out: write it there"
                ))),
            (Some(beside), Some(inside)) if beside != inside => {
                inner.note(format!(
                    "`original_max_position_embeddings` is {inside} here and {beside} beside it: \
                     the latter counts, as in transformers 5"
                ));
                Ok(beside)
            }
            (beside, inside) => Ok(beside.or(inside).unwrap_or(self.positions)),
        }
    }
}

/// The way a context is stretched, by the name that counts.
fn kind(inner: &mut Fields, only_long: bool) -> Result<String> {
    let old = inner.text_maybe("type")?;
    let new = inner.text_maybe("rope_type")?;
    if let (Some(old), Some(new)) = (&old, &new)
        && old != new
    {
        inner.note(format!(
            "`type` is `{old}` and `rope_type` is `{new}`: the latter counts, as in transformers 5"
        ));
    }
    // Bookkeeping of older programs: whether the model was trained on.
    inner.skip(&["finetuned"]);
    let kind = new.or(old).unwrap_or_else(|| "default".into());
    match kind.as_str() {
        "su" | "yarn" | "longrope" if only_long => Ok("longrope".into()),
        "default" => Ok(kind),
        other if only_long => Err(inner.bad(format!(
            "rope_type `{other}` is not one of phi3's: use longrope"
        ))),
        _ => Ok(kind),
    }
}

fn llama3(inner: &mut Fields, beside: &Beside) -> Result<Scaling> {
    let (low, high) = (
        inner.number("low_freq_factor")?,
        inner.number("high_freq_factor")?,
    );
    if high <= low {
        return Err(inner.bad("high_freq_factor must be above low_freq_factor"));
    }
    Ok(Scaling::Llama3 {
        factor: inner.number("factor")?,
        low,
        high,
        original: beside.original(inner)?,
    })
}
