//! ARC-Easy: the log-probability of every option.

use std::sync::Arc;

use anyhow::{Result, bail};
use lyceum::assets;
use lyceum::eval;
use lyceum::model::Model;
use lyceum::progress::NoProgress;

use crate::inputs::{self, Work};
use crate::turns::{self, Done};

pub(crate) fn serve(work: &Work, full: bool) -> Result<()> {
    let neo = work.base("neo")?;
    let arrow = work.routed(&neo, "arrow", 10)?;
    let embedded = Arc::new(assets::base(work.options())?);
    let (few, many) = inputs::questions(full)?;
    let neo = Model::new(neo);
    let embedded = Model::new(embedded);
    turns::serve(|variant| {
        let (model, questions) = match variant {
            "neo" => (&neo, &few),
            "neo-arrow" => (&arrow, &few),
            "embedded" => (&embedded, &many),
            other => bail!("no variant `{other}`"),
        };
        let answers = eval::multiple_choice(model, questions, 16, &mut NoProgress)?;
        let log_probs = answers
            .into_rows()
            .into_iter()
            .flat_map(|answer| answer.log_probs);
        Ok(Done {
            amount: questions.len() as f64,
            check: log_probs.map(|x| x as f32).collect(),
        })
    })
}
