//! Every family computes what the reference computes: `golden/families`, made by its `make.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use lyceum::backbone::{Base, Cache, LoadOptions, Logits, Precision, families};
use lyceum::generate::{GenerationConfig, ignore};
use lyceum::lora::Lora;
use lyceum::mix::{Bank, Mixing, Mixture, Pass, Route, SeqLens};
use lyceum::route::Fixed;
use lyceum::{Name, Site};

/// A tokenizer of one token, which no golden text holds.
pub(crate) const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel",
    "vocab": {"<|endoftext|>": 47}, "unk_token": "<|endoftext|>"}}"#;

pub(crate) type Tensors = BTreeMap<String, Tensor>;

pub(crate) fn folder(family: &str) -> PathBuf {
    crate::golden::path("families").join(family)
}

pub(crate) fn tensors(path: &Path) -> Tensors {
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    all.into_iter().collect()
}

/// A family's base at one of [`places`], with another configuration, if there is one.
pub(crate) fn placed(family: &str, config: Option<&[u8]>, place: LoadOptions) -> Base {
    let read = |name: &str| std::fs::read(folder(family).join(name)).unwrap();
    let own = read("config.json");
    let (config, weights) = (config.unwrap_or(&own), read("model.safetensors"));
    Base::from_bytes(family, config, &weights, TOKENIZER.as_bytes(), place).unwrap()
}

pub(crate) fn base_of(family: &str, config: &[u8]) -> Base {
    placed(family, Some(config), Precision::F32.into())
}

pub(crate) fn base(family: &str) -> Base {
    placed(family, None, Precision::F32.into())
}

/// The kernels, and candle's operations, both on the processor.
pub(crate) fn places() -> [LoadOptions; 2] {
    let composed = LoadOptions::candle(Precision::F32, &Device::Cpu);
    [Precision::F32.into(), composed]
}

/// Every family's base at both places, and its golden.
fn bases() -> impl Iterator<Item = (&'static str, Base, Tensors)> {
    let both = |family| places().map(|place| (family, place));
    families().flat_map(both).map(|(family, place)| {
        let golden = tensors(&folder(family).join("golden.safetensors"));
        (family, placed(family, None, place), golden)
    })
}

/// The two sequences of a golden.
pub(crate) fn sequences(golden: &Tensors) -> [Vec<u32>; 2] {
    let lens = golden["lens"].to_vec1::<i64>().unwrap();
    let rows = golden["input_ids"].to_vec2::<i64>().unwrap();
    [0, 1].map(|i| {
        rows[i][..lens[i] as usize]
            .iter()
            .map(|id| *id as u32)
            .collect()
    })
}

/// Logits `[t, v]` of packed sequences.
pub(crate) fn logits(base: &Base, sequences: &[Vec<u32>], mixture: Option<&Mixture>) -> Tensor {
    let lens: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let seq_lens = SeqLens::new(&lens);
    let routes = Route::all(&seq_lens, mixture);
    let pass = Pass {
        routes: routes.as_slice(),
        ..Pass::new(&seq_lens)
    };
    let hidden = base
        .decoder
        .hidden(&sequences.concat(), None, &pass)
        .unwrap();
    base.decoder.logits(&hidden, Logits::All).unwrap()
}

/// The largest difference between two tensors of one shape.
pub(crate) fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = a.sub(b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

/// The largest absolute value.
fn size(a: &Tensor) -> f32 {
    apart(a, &a.zeros_like().unwrap())
}

/// The adapter peft made, as variables: A and B by site.
fn adapter(family: &str) -> (BTreeMap<Site, (Var, Var)>, f64) {
    let read = std::fs::read(folder(family).join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&read).unwrap();
    let number = |name: &str| config[name].as_f64().unwrap();
    let scale = number("lora_alpha") / number("r");
    let all = tensors(&folder(family).join("adapter_model.safetensors"));
    let var = |name: String| Var::from_tensor(&all[&name].to_dtype(DType::F32).unwrap()).unwrap();
    let site = |name: &String| {
        let path = name.strip_suffix(".lora_A.weight")?;
        let factors = (var(name.clone()), var(format!("{path}.lora_B.weight")));
        let path = path.strip_prefix("base_model.model.").unwrap();
        Some((Site::new(path), factors))
    };
    let sites: BTreeMap<_, _> = all.keys().filter_map(site).collect();
    assert_eq!(sites.len() * 2, all.len());
    (sites, scale)
}

fn mixture(sites: &BTreeMap<Site, (Var, Var)>, scale: f64) -> Mixture {
    let lora = |(site, (a, b)): (&Site, &(Var, Var))| {
        let (a, b) = (a.as_tensor().clone(), b.as_tensor().clone());
        (site.clone(), Lora { a, b, scale })
    };
    let loras: BTreeMap<Site, Lora> = sites.iter().map(lora).collect();
    Mixture {
        bank: Arc::new(Bank::new([(Name::new("golden").unwrap(), &loras)]).unwrap()),
        router: Arc::new(Fixed::new(&[1.0])),
        mixing: Mixing::Outputs,
    }
}

#[test]
fn logits_equal_the_reference_ragged_and_one_by_one() {
    for (family, base, golden) in bases() {
        let both = sequences(&golden);
        let got = logits(&base, &both, None);
        let off = apart(&got, &golden["logits"]);
        assert!(size(&got) > 0.5 && off < 2e-4, "{family}: {off}");
        let alone: Vec<Tensor> = both
            .iter()
            .map(|one| logits(&base, std::slice::from_ref(one), None))
            .collect();
        let off = apart(&got, &Tensor::cat(&alone, 0).unwrap());
        assert!(off < 1e-5, "{family}: {off} from one by one");
    }
}

#[test]
fn adapters_made_by_peft_give_pefts_logits_and_gradients_at_every_site() {
    for (family, base, golden) in bases() {
        let (sites, scale) = adapter(family);
        let known: Vec<Site> = base
            .decoder
            .config()
            .sites()
            .into_iter()
            .map(|s| s.0)
            .collect();
        assert_eq!(sites.len(), known.len(), "{family}: peft adapts every site");
        assert!(
            known.iter().all(|site| sites.contains_key(site)),
            "{family}"
        );
        let mixture = mixture(&sites, scale);
        let both = sequences(&golden);
        let got = logits(&base, &both, Some(&mixture));
        let off = apart(&got, &golden["peft.logits"]);
        assert!(off < 2e-4, "{family}: {off}");
        assert!(
            apart(&got, &golden["logits"]) > 0.01,
            "{family}: the adapter does nothing"
        );
        // The mean over every next token.
        let (mut rows, mut ids, mut at) = (Vec::new(), Vec::new(), 0);
        for one in &both {
            rows.extend((at..at + one.len() - 1).map(|i| i as u32));
            ids.extend_from_slice(&one[1..]);
            at += one.len();
        }
        let wanted = rows;
        let rows = Tensor::from_slice(&wanted, wanted.len(), &Device::Cpu).unwrap();
        let targets: Arc<[u32]> = ids.as_slice().into();
        let losses = lyceum::ops::cross_entropy(&got.index_select(&rows, 0).unwrap(), &targets);
        let loss = losses.unwrap().mean_all().unwrap();
        let off = apart(&loss.reshape(1).unwrap(), &golden["loss"]);
        assert!(off < 1e-5, "{family}: loss {off}");
        // The same with only these rows wanted of the last block, and logits some at a time.
        let lens = both.each_ref().map(Vec::len);
        let seq_lens = SeqLens::new(&lens);
        let routes = Route::all(&seq_lens, &mixture);
        let pass = Pass {
            routes: routes.as_slice(),
            ..Pass::new(&seq_lens)
        };
        let hidden = base.decoder.hidden_at(&both.concat(), &wanted, None, &pass);
        let short = base.decoder.losses(&hidden.unwrap(), &ids.into()).unwrap();
        let short = short.mean_all().unwrap();
        assert!(apart(&loss, &short) < 1e-5, "{family}: {loss} {short}");
        for loss in [loss, short] {
            let gradients = loss.backward().unwrap();
            for (site, (a, b)) in &sites {
                for (var, name) in [(a, "lora_A"), (b, "lora_B")] {
                    let want = &golden[&format!("grad.{site}.{name}")];
                    let off = apart(gradients.get(var.as_tensor()).unwrap(), want) / size(want);
                    assert!(off < 1e-4, "{family} {site} {name}: {off}");
                }
            }
        }
    }
}

#[test]
fn adapters_imported_from_peft_route_as_peft_computes() {
    for (family, base, golden) in bases() {
        let name = Name::new("imported").unwrap();
        let expert = lyceum::peft::import(&folder(family), &name, Some(&base.host())).unwrap();
        let mixture = Mixture {
            bank: Arc::new(Bank::new([(name, &expert.loras)]).unwrap()),
            router: Arc::new(Fixed::new(&[1.0])),
            mixing: Mixing::Outputs,
        };
        let got = logits(&base, &sequences(&golden), Some(&mixture));
        let off = apart(&got, &golden["peft.logits"]);
        assert!(off < 2e-4, "{family}: {off}");
    }
}

/// Feeds tokens `some` at a time and gives the logits of all.
fn in_pieces(base: &Base, cache: &mut Cache, tokens: &[u32], some: usize) -> Tensor {
    let piece = |piece: &[u32], cache: &mut Cache| {
        let seq_lens = SeqLens::after(&[piece.len()], cache.lens()).unwrap();
        let pass = Pass::new(&seq_lens);
        let hidden = base.decoder.hidden(piece, Some(cache), &pass).unwrap();
        base.decoder.logits(&hidden, Logits::All).unwrap()
    };
    let all: Vec<Tensor> = tokens.chunks(some).map(|t| piece(t, cache)).collect();
    Tensor::cat(&all, 0).unwrap()
}

#[test]
fn greedy_continuations_with_a_cache_are_the_references() {
    for (family, base, golden) in bases() {
        let [long, _] = sequences(&golden);
        let want: Vec<i64> = golden["greedy"].to_vec1().unwrap();
        let mut cache = base.decoder.cache(1);
        let mut next = long[..5].to_vec();
        let mut got = Vec::new();
        while got.len() < want.len() {
            let logits = in_pieces(&base, &mut cache, &next, 5);
            let row = logits.get(logits.dims()[0] - 1).unwrap();
            next = vec![row.argmax(0).unwrap().to_scalar::<u32>().unwrap()];
            got.push(i64::from(next[0]));
        }
        assert_eq!(got, want, "{family}");
        // Beyond every window, in pieces or at once.
        let pieces = in_pieces(&base, &mut base.decoder.cache(1), &long, 3);
        let off = apart(&pieces, &logits(&base, &[long], None));
        assert!(off < 1e-5, "{family}: {off}");
    }
}

#[test]
fn variants_of_the_same_weights_equal_the_reference() {
    let text = std::fs::read(folder("variants.json")).unwrap();
    let configs: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let want = tensors(&folder("variants.safetensors"));
    assert_eq!(configs.len(), want.len());
    for (name, config) in configs {
        let family = name.split('/').next().unwrap();
        let golden = tensors(&folder(family).join("golden.safetensors"));
        for place in places() {
            let base = placed(family, Some(config.to_string().as_bytes()), place);
            let off = apart(&logits(&base, &sequences(&golden), None), &want[&name]);
            assert!(off < 2e-4, "{name}: {off}");
        }
        let plain = apart(&want[&name], &golden["logits"]);
        assert!(plain > 0.01, "{name}: the variant does nothing");
    }
}

#[expect(dead_code, reason = "the example's own main")]
#[path = "../../examples/llama2c.rs"]
pub(crate) mod llama2c;

#[derive(serde::Deserialize)]
struct Story {
    text: String,
    prompt: Vec<u32>,
    story: Vec<u32>,
}

#[test]
fn a_trained_llama_tells_the_stories_its_authors_program_tells() {
    let from = folder("../stories260K");
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    llama2c::convert(&read("stories260K.bin"), &read("tok512.bin"), dir.path()).unwrap();
    let base = Arc::new(Base::open(dir.path(), Precision::F32).unwrap());
    let stories: Vec<Story> = serde_json::from_slice(&read("stories.json")).unwrap();
    let model = lyceum::model::Model::new(base.clone());
    // All of them together: batching changes nothing.
    let prompts: Vec<Vec<u32>> = stories.iter().map(|s| s.prompt.clone()).collect();
    let config = GenerationConfig::default().max_new_tokens(256);
    let told = model
        .generate_tokens(&prompts, &[], &config.batch_size(32), ignore)
        .unwrap();
    // Or some at a time, one entering as another leaves.
    let by_two = model
        .generate_tokens(&prompts, &[], &config.batch_size(2), ignore)
        .unwrap();
    assert!(prompts.len() > 2 && told == by_two);
    for (story, told) in stories.iter().zip(told) {
        // The reference was given 256 tokens for prompt and story.
        assert!(story.story.len() > 150);
        assert_eq!(told[..story.story.len()], story.story, "{}", story.text);
        if story.prompt.len() + story.story.len() < 256 {
            assert_eq!(told.len(), story.story.len(), "the story has an end");
        }
        if story.prompt.len() > 1 {
            let ids = base.tokenizer.encode(&story.text).unwrap();
            assert_eq!(ids, story.prompt[1..], "{}", story.text);
        }
    }
    assert!(
        base.tokenizer
            .decode(&stories[0].story)
            .unwrap()
            .starts_with("Once upon a time")
    );
}

#[test]
fn what_a_tokenizer_puts_before_a_text_stays_when_the_text_is_cut() {
    let from = folder("../stories260K");
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    llama2c::convert(&read("stories260K.bin"), &read("tok512.bin"), dir.path()).unwrap();
    let tokenizer = lyceum::data::Tokenizer::open(dir.path()).unwrap();
    assert_eq!(tokenizer.start(), [1]);
    let ids = tokenizer
        .encode("Once upon a time there was a girl")
        .unwrap();
    let text = |max| {
        tokenizer
            .text("Once upon a time there was a girl", max)
            .unwrap()
    };
    assert_eq!(text(100), [&[1], ids.as_slice()].concat());
    assert_eq!(text(4), [&[1], &ids[ids.len() - 3..]].concat());
    // A continuation loses it first, as in lm-eval; one token stays before its targets.
    let whole = tokenizer.continuation("Once upon", " a time", 100).unwrap();
    assert_eq!(whole.ids[0], 1);
    let targets = whole.ids.len() - whole.from;
    for max in targets..whole.ids.len() {
        let cut = tokenizer.continuation("Once upon", " a time", max).unwrap();
        assert_eq!(cut.ids, whole.ids[whole.ids.len() - max - 1..]);
        assert_eq!(cut.ids.len() - cut.from, targets);
    }
    let cut = tokenizer.continuation("Once upon", " a time", targets - 1);
    assert!(cut.unwrap_err().to_string().contains("tokens or more"));
    // The GPTs have nothing there.
    let gpt = lyceum::data::Tokenizer::from_bytes(TOKENIZER.as_bytes()).unwrap();
    assert!(gpt.start().is_empty());
}
