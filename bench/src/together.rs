//! Ten experts on the embedded base: in one pass, and one after another.

use std::sync::Arc;

use anyhow::{Result, bail};
use lyceum::assets;
use lyceum::backbone::Precision;
use lyceum::data::Split;
use lyceum::lora::LoraConfig;
use lyceum::train::{How, Job, Watch, experts};

use crate::turns::{self, Done};

/// Steps of every expert in a turn.
const STEPS: usize = 3;

#[derive(Default)]
struct Count(usize);

impl Watch for Count {
    fn step(&mut self, _: usize, _: usize, _: f64, tokens: usize) {
        self.0 += tokens;
    }
}

pub(crate) fn serve() -> Result<()> {
    let base = Arc::new(assets::base(Precision::F32)?);
    let data = assets::tasks()?;
    let how = How {
        steps: Some(STEPS),
        ..How::default()
    };
    let jobs = { data.tasks().into_iter() }
        .map(|task| {
            let mut rows = data.select(Some(std::slice::from_ref(&task)), Split::Train)?;
            rows.truncate(STEPS * how.batch);
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
            for (_, losses) in experts(&base, some, &lora, &how, &mut count)? {
                check.extend(losses.iter().map(|loss| *loss as f32));
            }
        }
        Ok(Done {
            amount: count.0 as f64,
            check,
        })
    })
}
