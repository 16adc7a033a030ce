//! A Llama of 1.2 billion parameters: losses of 2 x 256 tokens, and decoding of one prompt.

use anyhow::{Result, bail};
use lyceum::data::Tokens;
use lyceum::generate::{GenerationConfig, ignore};
use lyceum::model::{Batch, Model};

use crate::inputs::{self, Work};
use crate::turns::{self, Done};

const NEW: usize = 32;

pub(crate) fn serve(work: &Work) -> Result<()> {
    let base = work.base("llama-1b")?;
    let rows = &inputs::equal(work)?[..2];
    let tokens = { rows.iter() }
        .map(|row| Ok(base.tokenizer.training(row, 1024)?))
        .collect::<Result<Vec<Tokens>>>()?;
    let batch = Batch::new(tokens.iter().zip(rows.iter().map(|row| row.task.clone())));
    let prompt = tokens[0].ids[..16].to_vec();
    let model = Model::new(base);
    turns::serve(|variant| match variant {
        "forward" => Ok(Done {
            amount: batch.tokens.len() as f64,
            check: model.losses(&batch, None)?.to_vec1()?,
        }),
        "decode" => {
            let how = GenerationConfig::default()
                .max_new_tokens(NEW)
                .batch_size(1);
            let new = model.generate_tokens(std::slice::from_ref(&prompt), &[], &how, ignore)?;
            Ok(Done {
                amount: new[0].len() as f64,
                check: Vec::new(),
            })
        }
        other => bail!("no variant `{other}`"),
    })
}
