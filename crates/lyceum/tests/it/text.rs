//! Texts as tokens: what stands before them, where an option begins, and the ends of long ones.

use std::ops::ControlFlow;
use std::path::Path;

use lyceum::data::{Example, Question, Split, Tokenizer};
use lyceum::eval::{mean_losses, multiple_choice, rouge_l};
use lyceum::generate::GenerationConfig;
use lyceum::model::Model;
use lyceum::progress::{NoProgress, Step};
use lyceum::{Error, Name};
use serde_json::{Value, json};

use crate::families::{folder, llama2c};
use crate::golden;

/// A tokenizer of these words (ids in this order), split by white space.
fn words(post: Option<&str>) -> Value {
    let special = |id: usize, text: &str| {
        json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    let post = post.map(|bos| {
        json!({ "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": bos, "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } },
                { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { bos: { "id": bos, "ids": [2], "tokens": [bos] } } })
    });
    json!({ "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "</s>"), special(2, "<s>")],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": post, "decoder": null,
        "model": { "type": "WordLevel", "unk_token": "<unk>",
            "vocab": { "<unk>": 0, "</s>": 1, "<s>": 2, "a": 3, "b": 4, "c": 5 } } })
}

fn opened(tokenizer: &Value, config: Option<Value>) -> lyceum::Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    if let Some(config) = config {
        let path = dir.path().join("tokenizer_config.json");
        std::fs::write(path, config.to_string()).unwrap();
    }
    Tokenizer::open(dir.path())
}

fn config(add: Option<bool>, class: &str) -> Option<Value> {
    let mut config =
        json!({ "tokenizer_class": class, "bos_token": "<s>", "eos_token": { "content": "</s>" } });
    if let Some(add) = add {
        config["add_bos_token"] = add.into();
    }
    Some(config)
}

#[test]
fn the_post_processor_decides_on_bos_then_the_flag_and_a_disagreement_is_said() {
    let llama = "LlamaTokenizerFast";
    let generic = "PreTrainedTokenizerFast";
    let (with, without) = (words(Some("<s>")), words(None));
    let byte_level = {
        let mut json = words(None);
        json["post_processor"] = json!({ "type": "ByteLevel", "add_prefix_space": true,
            "trim_offsets": true, "use_regex": true });
        json
    };
    for (tokenizer, config, start, note) in [
        (&without, config(Some(true), llama), &[2][..], None),
        (&without, config(Some(true), generic), &[2], None),
        (&without, config(Some(false), llama), &[], None),
        (&without, config(None, generic), &[], None),
        (
            &without,
            config(None, llama),
            &[],
            Some("LlamaTokenizerFast"),
        ),
        (&without, None, &[], None),
        (&with, config(Some(true), llama), &[2], None),
        (&with, config(None, llama), &[2], None),
        (
            &with,
            config(Some(false), llama),
            &[2],
            Some("add_bos_token"),
        ),
        (&byte_level, config(Some(true), llama), &[], Some("`<s>`")),
        (&byte_level, config(Some(false), generic), &[], None),
    ] {
        let mut opened = opened(tokenizer, config.clone()).unwrap();
        assert_eq!(opened.start(), start, "{config:?}");
        let said = opened.notes().concat();
        assert!(
            note.map_or(said.is_empty(), |part| said.contains(part)),
            "{config:?}: {said}"
        );
        if config.is_some() {
            for (add, start) in [(true, &[2][..]), (false, &[])] {
                opened.add_bos(add).unwrap();
                assert_eq!((opened.start(), opened.notes().len()), (start, 0));
            }
        }
    }
    let why = opened(&without, None).unwrap().add_bos(true).unwrap_err();
    assert!(why.to_string().contains("bos_token"), "{why}");
    let odd = json!({ "eos_token": "</s>", "add_bos_token": "yes" });
    let why = opened(&without, Some(odd)).unwrap_err().to_string();
    assert!(
        why.contains("add_bos_token") && why.contains("tokenizer_config.json"),
        "{why}"
    );
}

#[test]
fn bos_is_put_once() {
    let tokenizer = opened(&words(Some("<s>")), config(None, "x")).unwrap();
    assert_eq!(tokenizer.text("a b", 9).unwrap(), [2, 3, 4]);
    assert_eq!(tokenizer.text("<s> a b", 9).unwrap(), [2, 3, 4]);
    let pair = tokenizer.continuation("<s> a", " b", 9).unwrap();
    assert_eq!((pair.ids, pair.from), (vec![2, 3, 4], 2));
}

#[test]
fn a_text_without_context_stands_after_the_token_that_begins_or_ends_texts() {
    let plain = |config| opened(&words(None), config).unwrap();
    let (bos, eos) = (plain(config(None, "x")), plain(None));
    for (tokenizer, prefix) in [(&bos, 2), (&eos, 1)] {
        for context in ["", " ", "\n\t"] {
            let pair = tokenizer.continuation(context, " a b", 9).unwrap();
            assert_eq!(
                (pair.ids, pair.from),
                (vec![prefix, 3, 4], 1),
                "{context:?}"
            );
        }
    }
    // It is not put twice.
    let pair = bos.continuation("", "<s> a", 9).unwrap();
    assert_eq!((pair.ids, pair.from), (vec![2, 3], 1));
    let why = bos.continuation("a", "  ", 9).unwrap_err().to_string();
    assert!(why.contains("nothing to score"), "{why}");
}

/// Byte-level pairs over a few characters, some of them joined.
fn characters(joined: &[(&str, &str)]) -> Tokenizer {
    let mut vocab = vec!["</s>".to_owned()];
    vocab.extend((' '..='~').map(String::from));
    vocab.extend(["\n", "\t", "\u{3000}"].map(String::from));
    vocab.extend(joined.iter().map(|(a, b)| format!("{a}{b}")));
    let ids: serde_json::Map<String, Value> = vocab
        .into_iter()
        .enumerate()
        .map(|(id, text)| (text, id.into()))
        .collect();
    let merges: Vec<Value> = joined.iter().map(|(a, b)| json!([a, b])).collect();
    let json = json!({ "version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": { "type": "Fuse" },
        "model": { "type": "BPE", "unk_token": null, "vocab": ids, "merges": merges } });
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

#[test]
fn all_white_space_at_a_contexts_end_goes_to_the_continuation() {
    let tokenizer = characters(&[]);
    for (space, n) in [
        ("\n", 1),
        (" ", 1),
        ("\t", 1),
        (" \n\t", 3),
        ("\u{3000}", 1),
        ("", 0),
    ] {
        let pair = tokenizer
            .continuation(&format!("ab{space}"), " c", 99)
            .unwrap();
        assert_eq!(pair.from, 2, "{space:?}");
        assert_eq!(pair.ids.len() - pair.from, n + 2, "{space:?}");
    }
}

#[test]
fn an_option_without_a_token_of_its_own_is_an_error() {
    let tokenizer = characters(&[(":", " "), (": ", "C")]);
    let why = tokenizer.continuation("Answer:", " C", 99).unwrap_err();
    assert!(why.to_string().contains("no token of its own"), "{why}");
    assert_eq!(
        tokenizer.continuation("Answer:", " CD", 99).unwrap().from,
        7
    );
}

#[test]
fn a_question_that_cannot_be_scored_is_named() {
    let model = Model::new(golden::base());
    let question = |query: &str, choices: [&str; 2]| Question {
        query: query.into(),
        choices: choices.map(String::from).into(),
        gold: 0,
    };
    let good = question("is it?", ["yes", "no"]);
    let long = "so ".repeat(200);
    let all = [good.clone(), question("is it?", ["yes", long.as_str()])];
    let why = multiple_choice(&model, &all, 1, &mut NoProgress)
        .unwrap_err()
        .chain();
    assert!(
        why.contains("question 2, option 2 (`so so") && why.contains("128"),
        "{why}"
    );
    // An empty query is scored, every token of the option with it.
    let bare = question("", ["yes", "no"]);
    let answers = multiple_choice(&model, &[bare], 1, &mut NoProgress).unwrap();
    let answers = answers.rows();
    let n = model.base().tokenizer.encode(" yes").unwrap().len();
    assert_eq!(answers[0].tokens[0], n);
    assert!(answers[0].log_probs.iter().all(|lp| *lp < 0.0));
}

#[test]
fn a_pair_longer_than_the_window_is_scored_from_its_last_tokens() {
    let model = Model::new(golden::base());
    let tokenizer = &model.base().tokenizer;
    let long = "the cat sat on it. ".repeat(60);
    let pair = tokenizer.continuation(&long, " and", 128).unwrap();
    assert_eq!(pair.ids.len(), 129, "the last is only predicted");
    let got = model.score(&[std::slice::from_ref(&pair)], &[]).unwrap()[0][0];
    // The same from the logits of the 128 tokens before each target.
    let n = pair.ids.len() - pair.from;
    let seq_lens = lyceum::mix::SeqLens::new(&[128]);
    let logits = model.logits(&pair.ids[..128], &seq_lens, &[]).unwrap();
    let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
    let want: f64 = (0..n)
        .map(|i| {
            let row = &logits[pair.from + i - 1];
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            f64::from(row[pair.ids[pair.from + i] as usize]) - sum.ln()
        })
        .sum();
    assert!((got - want).abs() < 1e-4, "{got} {want}");
    // What has no target, or none with a token before it, is not scored.
    for from in [0, pair.ids.len()] {
        let odd = lyceum::data::Tokens {
            ids: pair.ids[..9].to_vec(),
            from: from.min(9),
        };
        assert!(model.score(&[&[odd]], &[]).is_err());
    }
}

/// Some 300 KB of words, lines, numbers and characters of several bytes.
fn long_text() -> String {
    let mut state = 7u64;
    let mut next = |n: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let parts = [
        "the",
        "word",
        "don't",
        "12345",
        "x=1;",
        "caf\u{e9}",
        "\u{4f60}\u{597d}",
        "\u{1f600}",
        "a",
        "?!",
        "Lily's",
        "</s>",
        "<|endoftext|>",
        "e\u{301}",
        "ANSWER",
        "_",
        "...",
    ];
    let gaps = [
        " ", " ", " ", " ", "\n", "  ", "\n\n", "\t", "", " \n", ", ", ".\n",
    ];
    let mut text = String::new();
    while text.len() < 300_000 {
        text += parts[next(parts.len() as u64) as usize];
        text += gaps[next(gaps.len() as u64) as usize];
    }
    text
}

#[test]
fn the_end_of_a_long_text_has_the_tokens_it_has_in_the_whole() {
    let stories = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read(folder("../stories260K").join(name)).unwrap();
    let (model, tokens) = (read("stories260K.bin"), read("tok512.bin"));
    llama2c::convert(&model, &tokens, stories.path()).unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lyceum-assets/base");
    let text = long_text();
    // No place to cut within the 64 KiB that are tried first.
    let unbroken = format!("{text}{}", "ab".repeat(40_000));
    for tokenizer in [
        Tokenizer::open(&assets).unwrap(),
        Tokenizer::open(stories.path()).unwrap(),
        opened(&words(Some("<s>")), None).unwrap(),
        Tokenizer::from_bytes(&std::fs::read(golden::path("gpt-neo-tiny/tokenizer.json")).unwrap())
            .unwrap(),
    ] {
        let start = tokenizer.start();
        // More than is ever tokenised at once: it is cut.
        let four = tokenizer.text(&text.repeat(4), 100).unwrap();
        assert_eq!(four, tokenizer.text(&text, 100).unwrap());
        for text in [text.as_str(), &unbroken] {
            let whole = tokenizer.encode(text).unwrap();
            for max in [16, 9000] {
                let end = &whole[whole.len().saturating_sub(max - start.len())..];
                let want = [start, end].concat();
                assert!(tokenizer.text(text, max).unwrap() == want, "{max}");
            }
            // A continuation, its context cut or not.
            let text = text.trim_end();
            for (context, more) in [(text, " and more"), ("short", &format!(" {text}"))] {
                let both = tokenizer.encode(&format!("{context}{more}")).unwrap();
                let before = tokenizer.encode(context).unwrap().len();
                let max = both.len() - before + 40;
                let got = tokenizer.continuation(context, more, max).unwrap();
                assert_eq!(got.ids.len() - got.from, both.len() - before);
                let same = both.len().min(got.ids.len() - start.len());
                assert!(both.ends_with(&got.ids[got.ids.len() - same..]));
            }
            let example = Example {
                source: text.to_owned(),
                target: "an answer".into(),
                references: Vec::new(),
                task: Name::new("t").unwrap(),
                task_source: String::new(),
                template_type: String::new(),
                split: Split::Train,
            };
            let short = tokenizer.training(&example, 64).unwrap();
            let long = tokenizer.training(&example, usize::MAX).unwrap();
            let n = short.ids.len() - start.len();
            assert_eq!(short.ids.len(), long.ids.len().min(64));
            assert!(long.ids.ends_with(&short.ids[start.len()..]));
            assert_eq!(n + start.len() - short.from, long.ids.len() - long.from);
        }
    }
}

#[test]
fn a_long_text_that_cannot_be_cut_is_refused() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lyceum-assets/base");
    let tokenizer = Tokenizer::open(&assets).unwrap();
    let unbroken = "ab".repeat(600_000);
    let why = tokenizer.text(&unbroken, 100).unwrap_err().to_string();
    assert!(
        why.contains("1200000 bytes") && why.contains("white space"),
        "{why}"
    );
    let broken = format!("{unbroken} {}", "and so on ".repeat(30_000));
    assert_eq!(tokenizer.text(&broken, 100).unwrap().len(), 100);
    // As many tokens as it has are asked for.
    assert!(tokenizer.text(&unbroken, 100_000).unwrap().len() <= 100_000);
}

#[test]
fn an_evaluation_stops_when_it_is_told_to() {
    let model = Model::new(golden::base());
    let stop = |step: &Step| {
        assert!(step.done <= 2, "{step:?}");
        match step.done {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let question = |text: &str| Question {
        query: text.into(),
        choices: vec!["yes".into(), "no".into()],
        gold: 0,
    };
    let all = ["is it?", "was it?", "will it?"].map(question);
    let why = multiple_choice(&model, &all, 1, &mut { stop }).unwrap_err();
    assert!(
        matches!(&why, Error::Stopped(text) if text.contains("after 2 of 3")),
        "{why}"
    );
    // A stop after the last one comes too late.
    let answers = multiple_choice(&model, &all[..2], 1, &mut { stop }).unwrap();
    assert_eq!(answers.rows().len(), 2);
    // Text is reported every few batches.
    let rows = golden::tasks().split(Split::Train).unwrap();
    let config = GenerationConfig::default().max_new_tokens(1).batch_size(1);
    let mut first = |_: &Step| ControlFlow::Break(());
    let why = rouge_l(&model, &rows[..9], &config, &mut first).unwrap_err();
    assert!(
        matches!(&why, Error::Stopped(text) if text.contains("after 4 of 9")),
        "{why}"
    );
    let why = mean_losses(&model, &rows[..20], 64, None, &mut first).unwrap_err();
    assert!(
        matches!(&why, Error::Stopped(text) if text.contains("after 16 of 20")),
        "{why}"
    );
}
