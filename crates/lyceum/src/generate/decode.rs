//! Greedy decoding of many prompts, batched continuously: a sequence that ends makes room for the
//! next prompt.

use std::ops::ControlFlow;

use candle_core::Device;
use lyceum_kernels::loss;

use super::{Chunk, FinishReason, GenerationConfig};
use crate::backbone::{Cache, Logits};
use crate::error::{Error, Result};
use crate::mix::{Pass, SeqLens};
use crate::model::Model;
use crate::name::Name;
use crate::ops;

/// Most tokens computed in one step while prompts enter, unless one alone has more; bounds memory.
const MAX_STEP_TOKENS: usize = 8192;

impl Model {
    /// Token-level variant of [`Model::generate`]: the chunks have no text. `tasks` names the task
    /// of every prompt, or of none. Prompts are read whole.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub fn generate_tokens(
        &self,
        prompts: &[Vec<u32>],
        tasks: &[Name],
        config: &GenerationConfig,
        mut sink: impl FnMut(Chunk<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>> {
        config.check()?;
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::invalid("a prompt must hold at least one token"));
        }
        if !tasks.is_empty() && tasks.len() != prompts.len() {
            return Err(Error::invalid("name the task of every prompt, or of none"));
        }
        let mut decoding = Decoding {
            model: self,
            prompts,
            tasks,
            config,
            next: 0,
            live: Vec::new(),
            cache: self.base().decoder.cache(0),
            out: vec![Vec::new(); prompts.len()],
        };
        while decoding.step(&mut sink)?.is_continue() {}
        Ok(decoding.out)
    }

    /// The most likely token after each of the sequences that go on with `lens` of `tokens`.
    fn next_tokens(
        &self,
        tokens: &[u32],
        lens: &[usize],
        tasks: &[Name],
        cache: &mut Cache,
    ) -> Result<Vec<u32>> {
        let seq_lens = SeqLens::after(lens, cache.lens())?;
        let ends = lens.iter().scan(0, |end, len| {
            *end += len;
            Some(*end as u32)
        });
        let rows: Vec<u32> = ends.map(|end| end - 1).collect();
        let route = self.route(&seq_lens);
        let pass = Pass {
            tasks,
            routes: route.as_slice(),
            ..Pass::new(&seq_lens)
        };
        let decoder = &self.base().decoder;
        let hidden = decoder.hidden_at(tokens, &rows, Some(cache), &pass)?;
        let logits = decoder.logits(&hidden, Logits::All)?;
        let v = logits.dims2()?.1;
        let logits = logits.to_device(&Device::Cpu)?;
        Ok(loss::argmax(&ops::values(&logits)?, v))
    }
}

/// Prompts being continued.
struct Decoding<'a> {
    model: &'a Model,
    prompts: &'a [Vec<u32>],
    tasks: &'a [Name],
    config: &'a GenerationConfig,
    /// The first prompt that waits.
    next: usize,
    /// The prompts being continued, in the order of `cache`.
    live: Vec<usize>,
    cache: Cache,
    out: Vec<Vec<u32>>,
}

impl Decoding<'_> {
    /// Admits prompts and computes the next token of every live sequence; breaks when all have
    /// ended or `sink` breaks off.
    fn step(
        &mut self,
        sink: &mut impl FnMut(Chunk<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let (tokens, lens) = self.admit();
        if self.live.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        let tasks: Vec<Name> = { self.live.iter() }
            .filter_map(|&i| self.tasks.get(i).cloned())
            .collect();
        // A step is many short pieces of parallel work: on a thread of the pool none of them waits
        // for another thread to wake up.
        let (model, cache) = (self.model, &mut self.cache);
        let next = rayon::scope(|_| model.next_tokens(&tokens, &lens, &tasks, cache))?;
        let mut keep = Vec::with_capacity(self.live.len());
        for (at, token) in next.into_iter().enumerate() {
            let finish = self.accept(at, token, sink);
            match finish {
                Some(FinishReason::Cancelled) => return Ok(ControlFlow::Break(())),
                finish => keep.push(finish.is_none()),
            }
        }
        self.cache.retain(&keep);
        let mut flags = keep.into_iter();
        self.live.retain(|_| flags.next().unwrap_or(false));
        Ok(ControlFlow::Continue(()))
    }

    /// Lets prompts enter while there is room. Returns the tokens to compute, the last of each
    /// sequence that goes on and the whole of each that enters, and how many each has.
    fn admit(&mut self) -> (Vec<u32>, Vec<usize>) {
        let last = |&i: &usize| self.out[i].last().copied();
        let mut tokens: Vec<u32> = self.live.iter().filter_map(last).collect();
        let mut lens = vec![1; self.live.len()];
        while let Some(prompt) = self.prompts.get(self.next) {
            let room = self.live.len() < self.config.batch_size
                && tokens.len() + prompt.len() <= MAX_STEP_TOKENS;
            if !room && !self.live.is_empty() {
                break;
            }
            self.live.push(self.next);
            lens.push(prompt.len());
            tokens.extend_from_slice(prompt);
            self.cache.enter(1);
            self.next += 1;
        }
        (tokens, lens)
    }

    /// Takes the next token of the live sequence at `at` and tells `sink`. Returns the reason why
    /// the sequence ends, if it does.
    fn accept(
        &mut self,
        at: usize,
        token: u32,
        sink: &mut impl FnMut(Chunk<'_>) -> ControlFlow<()>,
    ) -> Option<FinishReason> {
        let prompt = self.live[at];
        let mut tell = |token: Option<u32>, finish: Option<FinishReason>| {
            let chunk = Chunk {
                prompt,
                token,
                text: "",
                finish,
            };
            match sink(chunk) {
                ControlFlow::Break(()) => Some(FinishReason::Cancelled),
                ControlFlow::Continue(()) => finish,
            }
        };
        if self.model.base().stops.contains(&token) {
            return tell(None, Some(FinishReason::Stop));
        }
        self.out[prompt].push(token);
        let cancelled = tell(Some(token), None);
        let positions = self.model.base().decoder.config().max_position_embeddings;
        let full = self.out[prompt].len() >= self.config.max_new_tokens
            || self.cache.lens()[at] >= positions;
        match full && cancelled.is_none() {
            true => tell(None, Some(FinishReason::Length)),
            false => cancelled,
        }
    }
}
