//! Turns a checkpoint of llama2.c into a Hugging Face folder that Lyceum (and others) open.
//!
//! ```text
//! cargo run --example llama2c -- stories260K.bin tok512.bin stories260K
//! lyceum base show stories260K
//! lyceum generate --base stories260K --prompt "Once upon a time"
//! ```
//!
//! The file is a header of seven 32-bit integers (width, MLP width, blocks, heads, key-value
//! heads, vocabulary, positions) and all weights in f32. Two things change on the way: llama2.c
//! turns neighbouring values as a pair, Hugging Face the two halves of a head, so the rows of
//! `q_proj` and `k_proj` are put in another order; and the tokenizer's scores become a list of
//! merges, best first.

use std::collections::BTreeMap;
use std::path::Path;

use lyceum::{Error, Result};
use serde_json::{Value, json};

/// The marker of a word's beginning in sentencepiece vocabularies.
const SPACE: &str = "\u{2581}";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokenizer, out] = args.as_slice() else {
        return Err(Error::invalid("usage: llama2c MODEL.bin TOKENIZER.bin OUT"));
    };
    let read = |path: &String| std::fs::read(path).map_err(|e| Error::io(path, e));
    convert(&read(model)?, &read(tokenizer)?, Path::new(out))
}

/// Writes the folder `out` from the bytes of both files.
pub(crate) fn convert(model: &[u8], tokenizer: &[u8], out: &Path) -> Result<()> {
    let (config, weights) = weights(model)?;
    let vocabulary = config["vocab_size"].as_u64().unwrap_or(0) as usize;
    let pretty =
        |value: &Value| serde_json::to_vec_pretty(value).map_err(|e| Error::format("JSON", e));
    let write = |name: &str, bytes: &[u8]| lyceum::file::write(&out.join(name), bytes);
    write("model.safetensors", &weights)?;
    write("tokenizer.json", &pretty(&tokens(tokenizer, vocabulary)?)?)?;
    let special = json!({ "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>" });
    write("tokenizer_config.json", &pretty(&special)?)?;
    // llama2.c stops at the beginning of the next story.
    write(
        "generation_config.json",
        &pretty(&json!({ "eos_token_id": [1, 2] }))?,
    )?;
    write("config.json", &pretty(&config)?)
}

/// The values of the file, taken from the front.
struct Floats<'a>(&'a [u8]);

impl Floats<'_> {
    fn take(&mut self, n: usize) -> Result<Vec<f32>> {
        let bytes = self.0.split_off(..4 * n);
        let bytes = bytes.ok_or_else(|| Error::format("model", "ends too early"))?;
        let values = bytes.as_chunks::<4>().0.iter();
        Ok(values.map(|b| f32::from_le_bytes(*b)).collect())
    }
}

/// The header of the file.
struct Header {
    d: usize,
    /// Width inside the MLP.
    inner: usize,
    blocks: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    positions: usize,
    /// The head is the embedding: so says a vocabulary above zero.
    tied: bool,
}

impl Header {
    const BYTES: usize = 28;

    fn read(model: &[u8]) -> Result<Self> {
        let header: Vec<i32> = model.as_chunks::<4>().0[..model.len().min(Self::BYTES) / 4]
            .iter()
            .map(|b| i32::from_le_bytes(*b))
            .collect();
        let believed = |n: &i32| (1..1 << 20).contains(&n.unsigned_abs());
        let &[dim, hidden, layers, heads, kv_heads, vocabulary, positions] = header.as_slice()
        else {
            return Err(Error::format("model", "has no header"));
        };
        if !header.iter().all(believed) || dim % (2 * heads) != 0 {
            return Err(Error::format("model", "is no llama2.c checkpoint"));
        }
        let size = |n: i32| n.unsigned_abs() as usize;
        Ok(Header {
            d: size(dim),
            inner: size(hidden),
            blocks: size(layers),
            heads: size(heads),
            kv_heads: size(kv_heads),
            vocabulary: size(vocabulary),
            positions: size(positions),
            tied: vocabulary > 0,
        })
    }

    /// Values per head.
    fn width(&self) -> usize {
        self.d / self.heads
    }

    fn config(&self) -> Value {
        json!({
            "model_type": "llama", "vocab_size": self.vocabulary, "hidden_size": self.d,
            "intermediate_size": self.inner, "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": self.positions, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": self.tied,
            "bos_token_id": 1, "eos_token_id": 2,
        })
    }
}

/// Tensors by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// `config.json`, and the weights as safetensors.
fn weights(model: &[u8]) -> Result<(Value, Vec<u8>)> {
    let header = Header::read(model)?;
    let tensors = tensors(&header, Floats(&model[Header::BYTES..]))?;
    Ok((header.config(), safetensors(&tensors)?))
}

fn tensors(header: &Header, mut floats: Floats<'_>) -> Result<Tensors> {
    let (d, m, v, width) = (header.d, header.inner, header.vocabulary, header.width());
    let mut all = Tensors::new();
    let mut put = |name: String, shape: &[usize], values: Vec<f32>| {
        all.insert(name, (shape.to_vec(), values));
    };
    put(
        "model.embed_tokens.weight".into(),
        &[v, d],
        floats.take(v * d)?,
    );
    // Kind by kind, each for all blocks. A head that turns is put in halves.
    let (vector, q, kv) = ([d], [header.heads * width, d], [header.kv_heads * width, d]);
    let kinds: [(&str, &[usize], bool); 9] = [
        ("input_layernorm", &vector, false),
        ("self_attn.q_proj", &q, true),
        ("self_attn.k_proj", &kv, true),
        ("self_attn.v_proj", &kv, false),
        ("self_attn.o_proj", &[d, header.heads * width], false),
        ("post_attention_layernorm", &vector, false),
        ("mlp.gate_proj", &[m, d], false),
        ("mlp.down_proj", &[d, m], false),
        ("mlp.up_proj", &[m, d], false),
    ];
    for (name, shape, turned) in kinds {
        for i in 0..header.blocks {
            let mut values = floats.take(shape.iter().product())?;
            if turned {
                values = halves(&values, width, d);
            }
            put(format!("model.layers.{i}.{name}.weight"), shape, values);
        }
    }
    put("model.norm.weight".into(), &[d], floats.take(d)?);
    if !header.tied {
        // Between them lie tables of the turns.
        floats.take(header.positions * width)?;
        put("lm_head.weight".into(), &[v, d], floats.take(v * d)?);
    }
    Ok(all)
}

fn safetensors(tensors: &Tensors) -> Result<Vec<u8>> {
    let raw = tensors.iter().map(|(name, (shape, values))| {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        (name, shape.clone(), bytes)
    });
    let raw: Vec<_> = raw.collect();
    let bad = |e: safetensors::SafeTensorError| Error::format("safetensors", e);
    let views = raw.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        Ok((name.as_str(), view.map_err(bad)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, None).map_err(bad)
}

/// Rows `[heads * width, d]` whose pairs are neighbours, with each pair `width / 2` apart.
fn halves(rows: &[f32], width: usize, d: usize) -> Vec<f32> {
    let order = (0..width).map(|j| match j < width / 2 {
        true => 2 * j,
        false => 2 * (j - width / 2) + 1,
    });
    let order: Vec<usize> = order.collect();
    let head = |head: &[f32]| -> Vec<f32> {
        let row = |j: &usize| head[j * d..(j + 1) * d].iter().copied();
        order.iter().flat_map(row).collect()
    };
    rows.chunks(width * d).flat_map(head).collect()
}

/// A token's text and its score.
type Piece = (String, f32);

/// llama2.c's list of (score, length, text).
fn pieces(file: &[u8]) -> Result<Vec<Piece>> {
    let mut rest = file.get(4..).ok_or_else(|| bad("has no header"))?;
    let mut pieces: Vec<Piece> = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let score = f32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (text, tail) = tail
            .split_at_checked(length)
            .ok_or_else(|| bad("ends too early"))?;
        let text = std::str::from_utf8(text).map_err(|_| bad("has text that is not UTF-8"))?;
        let text = match pieces.len() {
            1 => "<s>".to_owned(),
            2 => "</s>".to_owned(),
            _ => text.replace(' ', SPACE),
        };
        pieces.push((text, score));
        rest = tail;
    }
    Ok(pieces)
}

fn bad(why: &str) -> Error {
    Error::format("tokenizer", why)
}

/// Every way to join two pieces, best score first; control tokens and bytes are not joined.
fn merges(pieces: &[Piece], ids: &BTreeMap<&str, usize>) -> Vec<Value> {
    let mut merges: Vec<(f32, usize, usize)> = Vec::new();
    for (text, score) in pieces.iter().skip(3 + 256) {
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(a), Some(b)) = (ids.get(&text[..at]), ids.get(&text[at..])) {
                merges.push((*score, *a, *b));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let merges = merges
        .iter()
        .map(|(_, a, b)| json!([pieces[*a].0, pieces[*b].0]));
    merges.collect()
}

/// `tokenizer.json` from llama2.c's list of tokens.
fn tokens(file: &[u8], vocabulary: usize) -> Result<Value> {
    let pieces = pieces(file)?;
    if pieces.len() != vocabulary {
        return Err(bad("has another number of tokens than the model"));
    }
    let ids: BTreeMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .map(|(i, p)| (p.0.as_str(), i))
        .collect();
    let merges = merges(&pieces, &ids);
    let special = |id: usize| {
        json!({ "id": id, "content": pieces[id].0, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
    };
    let text = |text: &str| json!({ "String": text });
    let first = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    Ok(json!({
        "version": "1.0",
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": SPACE },
            { "type": "Replace", "pattern": text(" "), "content": SPACE } ] },
        "post_processor": { "type": "TemplateProcessing",
            "single": [first, sequence("A")], "pair": [first, sequence("A"), sequence("B")],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": text(SPACE), "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": ids, "merges": merges },
    }))
}
