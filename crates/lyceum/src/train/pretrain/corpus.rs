//! The text a base is trained on: documents, their tokenizer, the order they come in, and the
//! held-out part.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;

use super::Pretrain;
use crate::data::{Dataset, Split, Tokenizer, Tokens};
use crate::error::{Error, Result};
use crate::model::Batch;
use crate::name::Name;
use crate::rng::Rng;

/// Paragraphs of plain text are joined into documents of at least this many bytes.
const DOCUMENT: usize = 2000;

/// Tokenised documents, each ended by end-of-text and cut to the context.
pub(super) struct Corpus {
    pub(super) tokenizer: Tokenizer,
    /// What is trained on; task rows stand here as often as the recipe says.
    train: Vec<Vec<u32>>,
    /// What is not: every `hold_out`-th document.
    held: Vec<Vec<u32>>,
    /// Bytes of the held-out documents that their tokens after the first stand for.
    held_bytes: usize,
}

impl Corpus {
    /// Reads the texts of `how` (paths relative to `root`); the tokenizer of an earlier start is
    /// taken from `out`, or trained on the training documents and written there.
    pub(super) fn open(how: &Pretrain, root: &Path, out: &Path) -> Result<Self> {
        let mut rows = rows(how, root)?;
        let mut text = plain(how, root)?;
        Rng::named(how.seed, "documents").shuffle(&mut rows);
        Rng::named(how.seed, "documents").shuffle(&mut text);
        // The same row may stand in two task files: what is held out stands in no other place.
        let held: BTreeSet<String> = [&rows, &text]
            .into_iter()
            .flat_map(|documents| documents.iter().step_by(how.hold_out).cloned())
            .collect();
        let kept = |documents: Vec<String>| -> Vec<String> {
            documents
                .into_iter()
                .filter(|d| !held.contains(d))
                .collect()
        };
        let (rows, text) = (kept(rows), kept(text));
        let tokenizer = tokenizer(how, rows.iter().chain(&text), out)?;
        let rows = encode(&tokenizer, &rows, how.context)?;
        let mut train = encode(&tokenizer, &text, how.context)?;
        (0..how.repeat).for_each(|_| train.extend(rows.iter().cloned()));
        let held_texts: Vec<String> = held.into_iter().collect();
        let held = encode(&tokenizer, &held_texts, how.context)?;
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

    /// Training and held-out documents.
    pub(super) fn documents(&self) -> (&[Vec<u32>], &[Vec<u32>]) {
        (&self.train, &self.held)
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

/// Documents of plain text files.
fn plain(how: &Pretrain, root: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for path in &how.text {
        let path = root.join(path);
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let text = String::from_utf8_lossy(&bytes[..how.text_bytes.min(bytes.len())]);
        let mut document = String::new();
        for paragraph in text.split("\n\n") {
            document.push_str(&paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
            document.push('\n');
            if document.len() > DOCUMENT {
                all.push(std::mem::take(&mut document));
            }
        }
    }
    Ok(all)
}

/// Training rows of the tasks: prompt and answer, or the prompt alone.
fn rows(how: &Pretrain, root: &Path) -> Result<Vec<String>> {
    let mut all = BTreeSet::new();
    for (paths, whole) in [(&how.tasks, true), (&how.prompts, false)] {
        for path in paths {
            for example in Dataset::open(&root.join(path))?.examples {
                if example.split == Split::Train {
                    let target = if whole { example.target.as_str() } else { "" };
                    let text = format!("{} {target}", example.source.trim_end());
                    all.insert(text.trim_end().to_owned());
                }
            }
        }
    }
    Ok(all.into_iter().collect())
}

/// Each document's tokens with end-of-text, cut to `context`; those of a single token are left out.
fn encode(tokenizer: &Tokenizer, documents: &[String], context: usize) -> Result<Vec<Vec<u32>>> {
    let one = |document: &String| -> Result<Vec<u32>> {
        let mut ids = tokenizer.encode(document)?;
        ids.push(tokenizer.eos());
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
    documents: impl Iterator<Item = &'a String> + Send,
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
    bpe.train(&mut trainer, documents.map(String::as_str))
        .map_err(bad)?;
    let json = bpe.to_string(false).map_err(bad)?;
    crate::file::write(&path, json.as_bytes())?;
    Tokenizer::from_bytes(json.as_bytes())
}
