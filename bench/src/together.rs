//! Ten experts on the embedded base: in one pass, and one after another.

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Result, bail};
use lyceum::assets;
use lyceum::backbone::{LoadOptions, Precision};
use lyceum::data::Split;
use lyceum::lora::LoraConfig;
use lyceum::progress::{Progress, Step};
use lyceum::train::{Job, TrainConfig, experts};

use crate::inputs::Work;
use crate::turns::{self, Done};

/// Steps of every expert in a turn.
const STEPS: usize = 3;

#[derive(Default)]
struct Count(usize);

impl Progress for Count {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self.0 += step.tokens;
        ControlFlow::Continue(())
    }
}

pub(crate) fn serve(work: &Work) -> Result<()> {
    let options = LoadOptions::new(Precision::F32, &work.device);
    let base = Arc::new(assets::base(options)?);
    let data = assets::tasks()?;
    let config = TrainConfig::default().steps(STEPS);
    let jobs = { data.tasks().into_iter() }
        .map(|task| {
            let mut rows = data.select(std::slice::from_ref(&task), Split::Train)?;
            rows.truncate(STEPS * config.batch);
            Ok(Job::new(task.clone(), vec![task], rows))
        })
        .collect::<Result<Vec<Job>>>()?;
    let lora = LoraConfig::default();
    turns::serve(|variant| {
        let at_once = match variant {
            "together" => jobs.len(),
            "alone" => 1,
            other => bail!("no variant `{other}`"),
        };
        let (mut count, mut check) = (Count::default(), Vec::new());
        for some in jobs.chunks(at_once) {
            for (_, losses) in experts(&base, some, &lora, &config, &mut count)? {
                check.extend(losses.iter().map(|loss| *loss as f32));
            }
        }
        Ok(Done {
            amount: count.0 as f64,
            check,
        })
    })
}
