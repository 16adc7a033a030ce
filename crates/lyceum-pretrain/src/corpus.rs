//! The text a base is trained on as tokens: the tokenizer, the order documents come in, batches.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;

use super::Pretrain;
use super::sources::{Document, Documents};
use lyceum::data::{Tokenizer, Tokens};
use lyceum::error::{Error, Result};
use lyceum::model::Batch;
use lyceum::name::Name;
use lyceum::rng::Rng;

/// Tokenised documents, cut to the context.
pub(super) struct Corpus {
    pub(super) tokenizer: Tokenizer,
    /// Training documents; task rows are repeated as often as the recipe says.
    train: Vec<Vec<u32>>,
    /// Held-out documents: the last part of every source.
    held: Vec<Vec<u32>>,
    /// Bytes of the held-out documents that their tokens after the first stand for.
    held_bytes: usize,
    /// Documents left out because they share words with what is to be avoided.
    pub(super) avoided: usize,
}

impl Corpus {
    /// Reads the texts of `how` (paths relative to `root`); the tokenizer of an earlier start is
    /// taken from `out`, or trained on the training documents and written there.
    pub(super) fn open(how: &Pretrain, root: &Path, out: &Path) -> Result<Self> {
        let documents = Documents::read(how, root)?;
        let all = documents.text.iter().chain(&documents.rows);
        let tokenizer = tokenizer(how, all.map(|document| &document.text), out)?;
        let mut train = encode(&tokenizer, &documents.text, how.context)?;
        let rows = encode(&tokenizer, &documents.rows, how.context)?;
        (0..how.repeat).for_each(|_| train.extend(rows.iter().cloned()));
        let held = encode(&tokenizer, &documents.held, how.context)?;
        let mut held_bytes = 0;
        for ids in &held {
            held_bytes += tokenizer.decode(&ids[1..])?.len();
        }
        if train.is_empty() || held.is_empty() {
            return Err(Error::invalid(
                "there is no text to train on, or none is held out",
            ));
        }
        Ok(Corpus {
            tokenizer,
            train,
            held,
            held_bytes,
            avoided: documents.avoided,
        })
    }

    /// Tokens of one pass over the training documents.
    pub(super) fn tokens(&self) -> usize {
        self.train.iter().map(Vec::len).sum()
    }

    /// The documents (by index) of each of `count` batches of up to `tokens` tokens: pass after
    /// pass over all of them, each in an order of its own.
    pub(super) fn plan(&self, seed: u64, tokens: usize, count: usize) -> Vec<Vec<usize>> {
        let mut batches: Vec<Vec<usize>> = Vec::with_capacity(count);
        let mut room = 0;
        for pass in 0.. {
            let mut order: Vec<usize> = (0..self.train.len()).collect();
            Rng::named(seed, &format!("pass {pass}")).shuffle(&mut order);
            for document in order {
                let len = self.train[document].len();
                if len > room {
                    if batches.len() == count {
                        return batches;
                    }
                    batches.push(Vec::new());
                    room = tokens;
                }
                room = room.saturating_sub(len);
                if let Some(batch) = batches.last_mut() {
                    batch.push(document);
                }
            }
        }
        batches
    }

    /// The training documents at `indices`, packed.
    pub(super) fn batch(&self, indices: &[usize]) -> Result<Batch> {
        pack(indices.iter().map(|&i| self.train[i].as_slice()))
    }

    /// The held-out documents in batches of about `tokens` tokens.
    pub(super) fn held_out(&self, tokens: usize) -> Result<Vec<Batch>> {
        let mut batches = Vec::new();
        let (mut from, mut size) = (0, 0);
        for (i, document) in self.held.iter().enumerate() {
            size += document.len();
            if size >= tokens || i + 1 == self.held.len() {
                batches.push(pack(self.held[from..=i].iter().map(Vec::as_slice))?);
                (from, size) = (i + 1, 0);
            }
        }
        Ok(batches)
    }

    /// Nats over all held-out tokens (but each document's first) as bits per byte of text.
    pub(super) fn bits_per_byte(&self, nats: f64) -> f64 {
        nats / std::f64::consts::LN_2 / self.held_bytes.max(1) as f64
    }

    /// The training documents at `seen`, each once, and the held-out ones.
    pub(super) fn documents<'a>(
        &self,
        seen: impl Iterator<Item = &'a usize>,
    ) -> (Vec<&[u32]>, &[Vec<u32>]) {
        let seen: BTreeSet<&[u32]> = seen.map(|&i| self.train[i].as_slice()).collect();
        (seen.into_iter().collect(), &self.held)
    }
}

fn pack<'a>(documents: impl Iterator<Item = &'a [u32]>) -> Result<Batch> {
    let text = Name::new("text")?;
    let whole = |ids: &[u32]| Tokens {
        ids: ids.to_vec(),
        from: 1,
    };
    let rows: Vec<Tokens> = documents.map(whole).collect();
    Ok(Batch::new(rows.iter().map(|tokens| (tokens, text.clone()))))
}

/// Each document's tokens, cut to `context`; those of a single token are left out.
fn encode(tokenizer: &Tokenizer, documents: &[Document], context: usize) -> Result<Vec<Vec<u32>>> {
    let one = |document: &Document| -> Result<Vec<u32>> {
        let mut ids = tokenizer.encode(&document.text)?;
        if document.ends {
            ids.push(tokenizer.eos());
        }
        ids.truncate(context);
        Ok(ids)
    };
    let mut all: Vec<Vec<u32>> = documents.par_iter().map(one).collect::<Result<_>>()?;
    all.retain(|ids| ids.len() > 1);
    Ok(all)
}

/// Reads the tokenizer of an earlier start, or trains a byte-level BPE.
fn tokenizer<'a>(
    how: &Pretrain,
    texts: impl Iterator<Item = &'a String> + Send,
    out: &Path,
) -> Result<Tokenizer> {
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    let path = out.join("tokenizer.json");
    if path.exists() {
        return Tokenizer::open(out);
    }
    let bad = |e: Box<dyn std::error::Error + Send + Sync>| Error::format("tokenizer training", e);
    let trainer = BpeTrainer::builder()
        .vocab_size(how.vocab)
        .show_progress(false)
        .special_tokens(vec![tokenizers::AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut bpe = tokenizers::Tokenizer::new(BPE::default());
    bpe.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    bpe.with_decoder(Some(ByteLevel::default()));
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    bpe.train(&mut trainer, texts.map(String::as_str))
        .map_err(bad)?;
    let json = bpe.to_string(false).map_err(bad)?;
    lyceum::file::write(&path, json.as_bytes())?;
    Tokenizer::from_bytes(json.as_bytes())
}
