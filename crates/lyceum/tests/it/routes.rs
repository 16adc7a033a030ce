//! Laws of passes whose sequences go through different mixtures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor, Var};
use lyceum::Name;
use lyceum::backbone::{Base, LoadOptions, Logits, Precision};
use lyceum::data::Tokens;
use lyceum::expert::Expert;
use lyceum::lora::{Lora, LoraConfig};
use lyceum::mix::{Bank, Gates, Mixing, Mixture, Pass, Probe, Route, SeqLens};
use lyceum::model::{Batch, Model, multi};
use lyceum::name::Site;
use lyceum::route::{Fixed, Router};

use crate::golden;
use crate::made::{self, Text};
use crate::mixed;

/// The tasks of the sequences, each served in every library.
const TASKS: [&str; 12] = [
    "t1", "t2", "t3", "t1", "t2", "t3", "t1", "t2", "t3", "t1", "t2", "t3",
];

/// Models over `base`: the base alone, and several routers, top-k's and mixings over a library of
/// three experts, one of five, and one whose experts differ in rank.
fn models(base: &Arc<Base>) -> Vec<Model> {
    let experts = |n: u64| -> Vec<Expert> {
        (1..=n)
            .map(|seed| made::expert(&format!("e{seed}"), seed, LoraConfig::default()))
            .collect()
    };
    let libraries = [
        made::library(&experts(3)),
        made::library(&experts(5)),
        made::library(&mixed::experts()),
    ];
    let (outputs, factors) = (Mixing::Outputs, Mixing::Factors);
    let of = |library: usize, router: Router, mixing: Mixing| {
        Model::routed(base.clone(), &libraries[library], &router, mixing).unwrap()
    };
    vec![
        of(0, Router::base(), outputs),
        of(0, Router::oracle(), outputs),
        of(0, Router::uniform(), outputs),
        of(0, Router::uniform(), factors),
        of(0, Router::arrow().top_k(2), outputs),
        of(1, Router::arrow().top_k(2), factors),
        of(1, Router::phatgoose().top_k(1), outputs),
        of(1, Router::oracle(), outputs),
        of(2, Router::arrow(), outputs),
        of(2, Router::phatgoose().top_k(2), outputs),
    ]
}

/// The models of twelve sequences: every one, neighbours of one mixture, and the base between.
const ORDER: [usize; 12] = [4, 4, 0, 1, 2, 3, 5, 0, 6, 7, 8, 9];

fn ordered(models: &[Model]) -> Vec<&Model> {
    ORDER.iter().map(|&i| &models[i]).collect()
}

/// The rows of sequence `i` of `all`.
fn rows(all: &Tensor, seq_lens: &SeqLens, i: usize) -> Vec<Vec<f32>> {
    let from: usize = seq_lens.lens()[..i].iter().sum();
    let own = all.narrow(0, from, seq_lens.lens()[i]).unwrap();
    own.to_vec2().unwrap()
}

/// Sequences of which every token is a target but for the first ones; the third has none.
fn batch(text: &Text) -> Batch {
    let tokens = |(i, ids): (usize, &Vec<u32>)| Tokens {
        ids: ids.clone(),
        from: if i == 2 { ids.len() } else { 3 },
    };
    let all: Vec<Tokens> = text.rows.iter().enumerate().map(tokens).collect();
    Batch::new(all.iter().zip(text.tasks.iter().cloned()))
}

#[test]
fn a_batch_of_many_mixtures_equals_separate_passes_bit_for_bit() {
    let (text, models) = (Text::new(&TASKS), models(&golden::base()));
    let (seq_lens, each) = (text.seq_lens(), ordered(&models));
    let got = multi::logits(&each, &text.tokens(), &seq_lens, &text.tasks).unwrap();
    for (i, model) in each.iter().enumerate() {
        let got = rows(&got, &seq_lens, i);
        // All sequences through this one's mixture, and this sequence by itself.
        assert_eq!(got, rows(&text.logits(model), &seq_lens, i), "sequence {i}");
        let alone = text.alone(model, i).to_vec2::<f32>().unwrap();
        assert_eq!(got, alone, "sequence {i} alone");
    }
    let apart = golden::apart(&got, &text.logits(&models[0]));
    assert!(apart > 0.1, "the mixtures change nothing");
}

#[test]
fn losses_of_many_mixtures_equal_those_of_separate_passes_bit_for_bit() {
    let (text, models) = (Text::new(&TASKS), models(&golden::base()));
    let (batch, each) = (batch(&text), ordered(&models));
    let got = multi::losses(&each, &batch)
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    assert_eq!(got.len(), batch.target_seqs.len());
    for (i, model) in each.iter().enumerate() {
        let want = model
            .losses(&batch, None)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (n, _) in { batch.target_seqs.iter().enumerate() }.filter(|(_, owner)| **owner == i) {
            assert_eq!(got[n], want[n], "target {n} of sequence {i}");
        }
    }
}

#[test]
fn composed_of_candles_operations_many_mixtures_equal_separate_passes() {
    let place = LoadOptions::candle(Precision::F32, &Device::Cpu);
    let base = Base::open(&golden::path("gpt-neo-tiny"), place).unwrap();
    let (text, models) = (Text::new(&TASKS), models(&Arc::new(base)));
    let (seq_lens, each) = (text.seq_lens(), ordered(&models));
    let got = multi::logits(&each, &text.tokens(), &seq_lens, &text.tasks).unwrap();
    // candle's products order their sums by the shape of the whole product, so bits differ, and the
    // gates' softmax makes more of it.
    for (i, model) in each.iter().enumerate() {
        let want = rows(&text.logits(model), &seq_lens, i).concat();
        let got = rows(&got, &seq_lens, i).concat();
        let largest = |x: &mut dyn Iterator<Item = f32>| x.fold(0.0, |a, x| f32::max(a, x.abs()));
        let apart = largest(&mut got.iter().zip(&want).map(|(a, b)| a - b));
        let apart = apart / largest(&mut want.iter().copied());
        assert!(apart < 1e-4, "sequence {i}: {apart} apart");
    }
}

/// The last logits of sequences that enter and leave a cache, by sequence, step after step: of
/// sequence `i` the tokens are `rows[i]`, first `PROMPT` at once, then one by one.
fn decoded(base: &Base, models: &[&Model], text: &Text, enters: &[usize]) -> Vec<Vec<Vec<f32>>> {
    const PROMPT: usize = 4;
    let decoder = &base.decoder;
    let (mut cache, mut live) = (decoder.cache(0), Vec::<(usize, usize)>::new());
    let mut seen = vec![Vec::new(); text.rows.len()];
    for step in 0.. {
        for (i, _) in { enters.iter().enumerate() }.filter(|(_, at)| **at == step) {
            live.push((i, 0));
            cache.enter(1);
        }
        if live.is_empty() && enters.iter().all(|at| *at < step) {
            break;
        }
        if live.is_empty() {
            continue;
        }
        let lens: Vec<usize> = { live.iter() }
            .map(|&(_, done)| if done == 0 { PROMPT } else { 1 })
            .collect();
        let tokens = { live.iter().zip(&lens) }
            .flat_map(|(&(i, done), len)| &text.rows[i][done..done + len]);
        let tokens: Vec<u32> = tokens.copied().collect();
        let seq_lens = SeqLens::after(&lens, cache.lens()).unwrap();
        let own: Vec<&Model> = live.iter().map(|&(i, _)| models[i]).collect();
        let tasks: Vec<Name> = live.iter().map(|&(i, _)| text.tasks[i].clone()).collect();
        let routes = multi::routes(&own).unwrap();
        let pass = Pass {
            tasks: &tasks,
            routes: &routes,
            ..Pass::new(&seq_lens)
        };
        let mut end = 0;
        let last = |len: &usize| {
            end += len;
            end as u32 - 1
        };
        let last: Vec<u32> = lens.iter().map(last).collect();
        let hidden = decoder
            .hidden_at(&tokens, &last, Some(&mut cache), &pass)
            .unwrap();
        let logits = decoder.logits(&hidden, Logits::All).unwrap();
        for ((i, done), (row, len)) in
            { live.iter_mut() }.zip({ logits.to_vec2().unwrap().into_iter() }.zip(&lens))
        {
            seen[*i].push(row);
            *done += len;
        }
        let keep: Vec<bool> = live
            .iter()
            .map(|&(i, done)| done < text.rows[i].len())
            .collect();
        cache.retain(&keep);
        let mut flags = keep.iter();
        live.retain(|_| *flags.next().unwrap());
    }
    seen
}

#[test]
fn sequences_of_many_mixtures_enter_and_leave_a_cache() {
    let (text, base) = (Text::new(&TASKS), golden::base());
    let models = models(&base);
    let each = ordered(&models);
    // The first come last, so that neighbours of one mixture are parted and others meet.
    let enters: Vec<usize> = (0..TASKS.len()).map(|i| (7 * i + 5) % 12).collect();
    let got = decoded(&base, &each, &text, &enters);
    for (i, model) in each.iter().enumerate() {
        assert_eq!(got[i].len(), text.rows[i].len() - 3);
        let alone = Text {
            rows: vec![text.rows[i].clone()],
            tasks: vec![text.tasks[i].clone()],
        };
        let want = decoded(&base, &[model], &alone, &[0]);
        assert_eq!(got[i], want[0], "sequence {i}");
    }
}

/// A mixture with weights `gates` whose every factor is a variable, and these.
fn trained(seed: u64, gates: &[f32]) -> (Mixture, Vec<Var>) {
    let mut vars = Vec::new();
    let mut var = |t: &Tensor| {
        let var = Var::from_tensor(t).unwrap();
        vars.push(var.clone());
        var.as_tensor().clone()
    };
    let mut experts: Vec<(Name, BTreeMap<Site, Lora>)> = Vec::new();
    for (i, _) in gates.iter().enumerate() {
        let own = made::expert(&format!("x{i}"), seed + i as u64, LoraConfig::default());
        let loras = own.loras.iter().map(|(site, lora)| {
            let (a, b, scale) = (var(&lora.a), var(&lora.b), lora.scale);
            (site.clone(), Lora { a, b, scale })
        });
        experts.push((own.card.name.clone(), loras.collect()));
    }
    let bank = Bank::new(experts.iter().map(|(name, loras)| (name.clone(), loras))).unwrap();
    let mixture = Mixture {
        bank: Arc::new(bank),
        router: Arc::new(Fixed::new(gates)),
        mixing: Mixing::Outputs,
    };
    (mixture, vars)
}

/// The sum of the losses of the sequences through their mixtures, and the gradients of `vars`.
fn gradients(
    base: &Base,
    text: &Text,
    routes: &[Route<'_>],
    recompute: bool,
    vars: &[Var],
) -> (f32, Vec<Option<Tensor>>) {
    let batch = batch(text);
    let pass = Pass {
        routes,
        recompute,
        ..Pass::new(&batch.seq_lens)
    };
    let hidden = base
        .decoder
        .hidden_at(&batch.tokens, &batch.target_positions, None, &pass);
    let losses = base
        .decoder
        .losses(&hidden.unwrap(), &batch.target_ids)
        .unwrap();
    let loss = losses.sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let of = |var: &Var| gradients.get(var).cloned();
    (loss.to_scalar().unwrap(), vars.iter().map(of).collect())
}

#[test]
fn gradients_through_several_routes_are_the_sums_of_those_through_each() {
    let text = Text::new(&TASKS[..5]);
    let (one, mut vars) = trained(1, &[0.75, 0.5]);
    let (other, more) = trained(5, &[1.0]);
    vars.extend(more);
    // The first mixture twice, with the base and the other between.
    let route = |sequences, mixture| Route { sequences, mixture };
    let routes = [route(0..1, &one), route(2..4, &other), route(4..5, &one)];
    let place = LoadOptions::candle(Precision::F32, &Device::Cpu);
    let composed = Base::open(&golden::path("gpt-neo-tiny"), place).unwrap();
    for (base, recompute) in [
        (&*golden::base(), false),
        (&*golden::base(), true),
        (&composed, false),
    ] {
        let (loss, got) = gradients(base, &text, &routes, recompute, &vars);
        let mut want: Vec<Option<Tensor>> = vec![None; vars.len()];
        let mut losses = 0.0;
        for i in 0..text.rows.len() {
            let alone = Text {
                rows: vec![text.rows[i].clone()],
                tasks: vec![text.tasks[i].clone()],
            };
            // As in the batch, the third sequence has no target.
            if i == 2 {
                continue;
            }
            let mixture = [Some(&one), None, Some(&other), Some(&other), Some(&one)][i];
            let routes = mixture.map(|mixture| route(0..1, mixture));
            if routes.is_none() {
                continue;
            }
            let (loss, own) = gradients(base, &alone, routes.as_slice(), recompute, &vars);
            losses += loss;
            for (sum, own) in want.iter_mut().zip(own) {
                *sum = match (sum.take(), own) {
                    (Some(sum), Some(own)) => Some((sum + own).unwrap()),
                    (sum, own) => sum.or(own),
                };
            }
        }
        assert!(loss > losses, "the base's sequence counts too");
        for (got, want) in got.iter().zip(&want) {
            let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
            let off = golden::relative(got, want);
            assert!(
                off < 1e-5,
                "recompute {recompute}: gradients are {off} apart"
            );
        }
    }
}

/// Counts decisions, and remembers of each site the tokens and experts of every route.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<Site, Vec<(usize, usize)>>>);

impl Probe for Seen {
    fn see(&self, site: &Site, gates: &Gates, pass: &Pass<'_>) -> lyceum::Result<()> {
        let (tokens, names) = (pass.seq_lens.tokens(), pass.routes[0].mixture.bank.names());
        assert_eq!(gates.rows(tokens, names.len()).len(), tokens);
        assert_eq!(pass.tasks.len(), pass.seq_lens.lens().len());
        let mut all = self.0.lock().unwrap();
        all.entry(site.clone())
            .or_default()
            .push((tokens, names.len()));
        Ok(())
    }
}

#[test]
fn a_probe_sees_every_route_by_itself() {
    let (text, base) = (Text::new(&TASKS[..4]), golden::base());
    let models = models(&base);
    let routes = multi::routes(&[&models[1], &models[0], &models[6], &models[6]]).unwrap();
    assert_eq!(routes.len(), 2);
    let (seq_lens, seen) = (text.seq_lens(), Seen::default());
    let pass = Pass {
        tasks: &text.tasks,
        routes: &routes,
        probe: Some(&seen),
        ..Pass::new(&seq_lens)
    };
    base.decoder.hidden(&text.tokens(), None, &pass).unwrap();
    let all = seen.0.into_inner().unwrap();
    assert_eq!(all.len(), 12);
    let lens = seq_lens.lens();
    for (site, routes) in all {
        assert_eq!(routes, [(lens[0], 3), (lens[2] + lens[3], 5)], "{site}");
    }
}

#[test]
fn routes_that_do_not_fit_are_refused() {
    let (text, base) = (Text::new(&TASKS[..3]), golden::base());
    let models = models(&base);
    let (seq_lens, tokens) = (text.seq_lens(), text.tokens());
    let mixture = models[2].mixture().unwrap();
    let try_routes = |ranges: &[(usize, usize)]| {
        let route = |&(start, end): &(usize, usize)| Route {
            sequences: start..end,
            mixture,
        };
        let routes: Vec<Route<'_>> = ranges.iter().map(route).collect();
        let pass = Pass {
            routes: &routes,
            ..Pass::new(&seq_lens)
        };
        base.decoder.hidden(&tokens, None, &pass).map(|_| ())
    };
    assert!(try_routes(&[(0, 1), (1, 1), (1, 3)]).is_ok());
    for ranges in [
        &[(0, 4)][..],
        &[(0, 2), (1, 3)],
        &[(2, 3), (0, 1)],
        &[(2, 1)],
    ] {
        let error = try_routes(ranges).unwrap_err().to_string();
        assert!(error.contains("must not overlap"), "{ranges:?}: {error}");
    }
    // One model per sequence, over one base.
    let two = multi::logits(&[&models[0], &models[1]], &tokens, &seq_lens, &[]);
    assert!(
        two.unwrap_err()
            .to_string()
            .contains("2 models for 3 sequences")
    );
    let path = golden::path("gpt-neo-tiny");
    let other = Model::new(Arc::new(Base::open(&path, Precision::F32).unwrap()));
    let error = multi::routes(&[&models[0], &other])
        .unwrap_err()
        .to_string();
    assert!(error.contains("share one base"), "{error}");
    // An oracle's sequences have tasks.
    let each = [&models[0], &models[1], &models[1]];
    assert!(multi::logits(&each, &tokens, &seq_lens, &[]).is_err());
    assert!(multi::logits(&each, &tokens, &seq_lens, &text.tasks).is_ok());
}
