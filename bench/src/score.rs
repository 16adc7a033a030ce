//! ARC-Easy: the log-probability of every option.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use lyceum::assets;
use lyceum::backbone::Precision;
use lyceum::eval;
use lyceum::model::Model;
use lyceum::train::Silent;

use crate::inputs;
use crate::turns::{self, Done};

pub(crate) fn serve(work: &Path, full: bool) -> Result<()> {
    let neo = inputs::base(work, "neo")?;
    let arrow = inputs::routed(work, &neo, "arrow", 10)?;
    let embedded = Arc::new(assets::base(Precision::Bf16)?);
    let (few, many) = inputs::questions(full)?;
    let neo = Model::new(neo, None);
    let embedded = Model::new(embedded, None);
    turns::serve(|variant| {
        let (model, questions) = match variant {
            "neo" => (&neo, &few),
            "neo-arrow" => (&arrow, &few),
            "embedded" => (&embedded, &many),
            other => bail!("no variant `{other}`"),
        };
        let answers = eval::choose(model, questions, 16, &mut Silent)?;
        let log_probs = answers.into_iter().flat_map(|answer| answer.log_probs);
        Ok(Done {
            amount: questions.len() as f64,
            check: log_probs.map(|x| x as f32).collect(),
        })
    })
}
