//! Losses of 8 x 256 tokens, an eighth of them targets, under every router.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use lyceum::data::Tokens;
use lyceum::model::{Batch, Model};

use crate::inputs::{self, Work};
use crate::turns::{self, Done};

pub(crate) fn serve(work: &Work) -> Result<()> {
    let base = work.base("neo-words")?;
    let rows = inputs::equal(work)?;
    let tokens = { rows.iter() }
        .map(|row| Ok(base.tokenizer.training(row, 1024)?))
        .collect::<Result<Vec<Tokens>>>()?;
    let batch = Batch::new(tokens.iter().zip(rows.iter().map(|row| row.task.clone())));
    let mut models = BTreeMap::from([("base", Model::new(base.clone()))]);
    for router in ["oracle", "uniform", "arrow", "phatgoose"] {
        models.insert(router, work.routed(&base, router, 10)?);
    }
    models.insert("arrow-100", work.routed(&base, "arrow", 100)?);
    turns::serve(|variant| {
        let model = models.get(variant).context("no such variant")?;
        Ok(Done {
            amount: batch.tokens.len() as f64,
            check: model.losses(&batch, None)?.to_vec1()?,
        })
    })
}
