//! Greedy generation: 8 prompts of 200 tokens, 64 new ones each.

use anyhow::{Result, bail};
use lyceum::generate::{GenerationConfig, ignore};
use lyceum::model::Model;

use crate::inputs::{self, Work};
use crate::turns::{self, Done};

const NEW: usize = 64;

pub(crate) fn serve(work: &Work) -> Result<()> {
    let base = work.base("neo-words")?;
    let prompts = inputs::prompts(&base, work)?;
    let arrow = work.routed(&base, "arrow", 10)?;
    let base = Model::new(base);
    turns::serve(|variant| {
        let model = match variant {
            "base" => &base,
            "arrow" => &arrow,
            other => bail!("no variant `{other}`"),
        };
        let how = GenerationConfig::default()
            .max_new_tokens(NEW)
            .batch_size(prompts.len());
        let new = model.generate_tokens(&prompts, &[], &how, ignore)?;
        let tokens: usize = new.iter().map(Vec::len).sum();
        if tokens != prompts.len() * NEW {
            bail!("{tokens} tokens instead of {NEW} for each prompt");
        }
        Ok(Done {
            amount: tokens as f64,
            check: Vec::new(),
        })
    })
}
