//! LoRA training steps on GPT-Neo-125M, beginning from the first adapter of the work folder.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use lyceum::data::Example;
use lyceum::lora::LoraConfig;
use lyceum::progress::{Progress, Step};
use lyceum::train::{Job, TrainConfig, experts};
use lyceum::{Name, peft};

use crate::inputs::{self, RAGGED_BATCH, RAGGED_STEPS, Work};
use crate::turns::{self, Done};

/// Answers a turn every few steps of a training run, and waits for the next.
struct Turns {
    every: usize,
    started: Instant,
    losses: Vec<f32>,
    tokens: usize,
}

impl Progress for Turns {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self.losses.push(step.value as f32);
        self.tokens += step.tokens;
        if self.losses.len() < self.every {
            return ControlFlow::Continue(());
        }
        let done = Done {
            amount: std::mem::take(&mut self.tokens) as f64,
            check: std::mem::take(&mut self.losses),
        };
        let next = turns::answer(self.started, &done).and_then(|()| turns::next());
        if !matches!(next, Ok(Some(_))) {
            let end = turns::end();
            std::process::exit(i32::from(end.is_err()));
        }
        self.started = Instant::now();
        ControlFlow::Continue(())
    }
}

/// On 8 x 256 tokens, a step a turn.
pub(crate) fn equal(work: &Work) -> Result<()> {
    run(work, "neo-words", inputs::equal(work)?, (8, 1))
}

/// On real tasks, a few steps a turn.
pub(crate) fn ragged(work: &Work) -> Result<()> {
    let sizes = (RAGGED_BATCH, RAGGED_STEPS);
    run(work, "neo", inputs::ragged()?, sizes)
}

fn run(work: &Work, base: &str, rows: Vec<Example>, (batch, every): (usize, usize)) -> Result<()> {
    let base = work.base(base)?;
    let name = Name::new("e000")?;
    let first = peft::import(&work.dir.join("adapters/e000"), &name, Some(&base.host()))?;
    let mut job = Job::new(name.clone(), vec![name], rows);
    let indices: Vec<usize> = (0..job.examples.len()).collect();
    job.order = Some(indices.chunks(batch).map(<[usize]>::to_vec).collect());
    job.init = Some(first.loras);
    let lora = LoraConfig::default().alpha(first.card.lora.alpha);
    // So many steps that the rate does not fall while it is measured.
    let config = TrainConfig::default()
        .lr(1e-3)
        .batch(batch)
        .steps(1_000_000);
    if turns::next()?.is_none() {
        return turns::end();
    }
    let mut progress = Turns {
        every,
        started: Instant::now(),
        losses: Vec::new(),
        tokens: 0,
    };
    experts(&base, &[job], &lora, &config, &mut progress)?;
    Ok(())
}
