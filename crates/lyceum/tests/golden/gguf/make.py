"""Makes the GGUF files here with llama.cpp's own converter.

    pip install torch transformers==4.47.* safetensors sentencepiece gguf numpy
    pip download llama-cpp-python --no-deps --no-binary :all:    # holds llama.cpp, with the converter
    python make.py LLAMA_CPP STORIES      # its folder, and stories260K as a Hugging Face folder
                                          # (cargo run --example llama2c)

Per family that ggml knows: `FAMILY.gguf`, the tiny model of `../families` in bf16, with a small
made-up vocabulary. `FAMILIES` holds the fields of `config.json` that ggml cannot say; the tests
change them in the folder too. `stories260K.gguf`: a trained model in Q8_0 with its sentencepiece
vocabulary, and `tokenizer.model`, that vocabulary as sentencepiece keeps it.
"""

import json
import pathlib
import shutil
import struct
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
LLAMA_CPP, STORIES = map(pathlib.Path, sys.argv[1:3])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import gguf  # noqa: E402
from conversion import ModelType, get_model_class  # noqa: E402
from sentencepiece import sentencepiece_model_pb2  # noqa: E402

FAMILIES = {
    "llama": ("LlamaForCausalLM", {}),
    "mistral": ("MistralForCausalLM", dict(sliding_window=None)),
    "qwen2": ("Qwen2ForCausalLM", dict(use_sliding_window=False)),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "gemma": ("GemmaForCausalLM", {}),
    "gemma2": ("Gemma2ForCausalLM", dict(query_pre_attn_scalar=6)),
    "phi": ("PhiForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
}


def vocabulary(self):
    """48 tokens: letters and pairs of them, and an end of text."""
    tokens = [chr(ord("a") + i) for i in range(26)] + [f"a{chr(ord('a') + i)}" for i in range(21)]
    tokens.append("<|endoftext|>")
    self.gguf_writer.add_tokenizer_model("gpt2")
    self.gguf_writer.add_tokenizer_pre("gpt-2")
    self.gguf_writer.add_token_list(tokens)
    self.gguf_writer.add_token_types([1] * 47 + [3])
    self.gguf_writer.add_token_merges([f"a {t[1]}" for t in tokens[26:47]])
    self.gguf_writer.add_eos_token_id(47)


def convert(folder, architecture, ftype, out, own_vocabulary=False):
    known = get_model_class(architecture)
    own = {} if own_vocabulary else {"set_vocab": vocabulary}
    kind = type(known.__name__, (known,), {"model_arch": known.model_arch, **own})
    model = kind(folder, ftype, out, use_temp_file=False, eager=True)
    said = model.hparams
    # What the converter takes for granted about GPT-2 and Phi.
    inner = said.get("n_inner") or said.get("intermediate_size")
    for name, value in [("feed_forward_length", inner),
                        ("head_count_kv", said.get("num_key_value_heads"))]:
        add = getattr(model.gguf_writer, f"add_{name}")
        setattr(model.gguf_writer, f"add_{name}", lambda given, add=add, v=value: add(v or given))
    model.write()


def stories():
    raw = (HERE / "../stories260K/tok512.bin").read_bytes()
    proto, at, vocab = sentencepiece_model_pb2.ModelProto(), 4, 0
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    while at < len(raw):
        score, length = struct.unpack_from("fi", raw, at)
        text = raw[at + 8 : at + 8 + length].decode()
        at += 8 + length
        special = {0: ("<unk>", kinds.UNKNOWN), 1: ("<s>", kinds.CONTROL), 2: ("</s>", kinds.CONTROL)}
        text, kind = special.get(vocab, (text.replace(" ", "\u2581"), kinds.NORMAL))
        if 3 <= vocab < 259:
            kind = kinds.BYTE
        proto.pieces.add(piece=text, score=score, type=kind)
        vocab += 1
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type, trainer.byte_fallback, trainer.vocab_size = trainer.BPE, True, vocab
    normalizer.name, normalizer.remove_extra_whitespaces = "identity", False
    normalizer.add_dummy_prefix = True
    (HERE / "tokenizer.model").write_bytes(proto.SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = json.loads((STORIES / "config.json").read_text())
        config["architectures"] = ["LlamaForCausalLM"]
        (folder / "config.json").write_text(json.dumps(config))
        shutil.copy(STORIES / "model.safetensors", folder)
        shutil.copy(HERE / "tokenizer.model", folder)
        q8 = gguf.LlamaFileType.MOSTLY_Q8_0
        convert(folder, "LlamaForCausalLM", q8, HERE / "stories260K.gguf", own_vocabulary=True)


for family, (architecture, changes) in FAMILIES.items():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = json.loads((HERE / "../families" / family / "config.json").read_text())
        config |= changes
        config["architectures"] = [architecture]
        if family == "gpt2":
            config["n_ctx"] = config["n_positions"]
        (folder / "config.json").write_text(json.dumps(config))
        shutil.copy(HERE / "../families" / family / "model.safetensors", folder)
        bf16 = gguf.LlamaFileType.MOSTLY_BF16
        convert(folder, architecture, bf16, HERE / f"{family}.gguf")
stories()
