//! Greedy generation: 8 prompts of 200 tokens, 64 new ones each.

use anyhow::{Result, bail};
use lyceum::model::{Decoding, Model};

use crate::inputs::{self, Work};
use crate::turns::{self, Done};

const NEW: usize = 64;

pub(crate) fn serve(work: &Work) -> Result<()> {
    let base = work.base("neo-words")?;
    let prompts = inputs::prompts(&base, work)?;
    let arrow = work.routed(&base, "arrow", 10)?;
    let base = Model::new(base, None);
    turns::serve(|variant| {
        let model = match variant {
            "base" => &base,
            "arrow" => &arrow,
            other => bail!("no variant `{other}`"),
        };
        let how = Decoding {
            max_new: NEW,
            live: prompts.len(),
        };
        let new = model.generate(&prompts, &[], &how, |_, _| ())?;
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
