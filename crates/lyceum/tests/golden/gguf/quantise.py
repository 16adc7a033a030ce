"""Makes `stories260K-Q4_K_M.gguf.zst` with llama.cpp's own quantiser: what users get who run
`llama-quantize MODEL.gguf Q4_K_M`.

    pip install gguf numpy zstandard
    npm pack @node-llama-cpp/linux-x64@3.21.1     # llama.cpp as shared libraries; unpack it
    python quantise.py package/bins/linux-x64

Blocks of the K kind are 256 values of a row, and stories260K is 64 wide. So it is widened with
zeros first, without changing what it computes: four times the width and the heads, and an MLP of
256. A norm then divides by half as much, so its weights are halved (and its epsilon is a quarter).
Each weight still has its four bits and shares its scale with 31 others. Vocabulary and special
tokens are those of `stories260K.gguf`, which llama.cpp's converter wrote (`make.py`).
"""

import ctypes
import pathlib
import struct
import sys
import tempfile

import gguf
import numpy as np
import zstandard

HERE = pathlib.Path(__file__).parent
LIBRARIES = pathlib.Path(sys.argv[1])
WIDTH, Q4_K_M = 256, 15
CHANGED = {
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": WIDTH,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 16,
    "llama.attention.layer_norm_rms_epsilon": 2.5e-6,
    "general.file_type": 0,
}


def matrices():
    """llama2.c's tensors by ggml's names: both turn neighbouring values as a pair."""
    raw = (HERE / "../stories260K/stories260K.bin").read_bytes()
    d, inner, blocks, heads, kv_heads, words, _ = struct.unpack("7i", raw[:28])
    kv, at = d // heads * kv_heads, 28

    def take(name, *shape):
        nonlocal at
        count = int(np.prod(shape))
        values = np.frombuffer(raw, np.float32, count, at).reshape(shape)
        at += 4 * count
        if name.startswith("blk"):
            return [(name.replace("*", str(i)), v) for i, v in enumerate(values)]
        return [(name, values)]

    found = take("token_embd", words, d)
    found += take("blk.*.attn_norm", blocks, d)
    found += take("blk.*.attn_q", blocks, d, d)
    found += take("blk.*.attn_k", blocks, kv, d)
    found += take("blk.*.attn_v", blocks, kv, d)
    found += take("blk.*.attn_output", blocks, d, d)
    found += take("blk.*.ffn_norm", blocks, d)
    found += take("blk.*.ffn_gate", blocks, inner, d)
    found += take("blk.*.ffn_down", blocks, d, inner)
    found += take("blk.*.ffn_up", blocks, inner, d)
    return found + take("output_norm", d)


def widened(name, values):
    if values.ndim == 1:
        return np.pad(values / 2, (0, WIDTH - len(values)))
    rows = len(values) if name == "token_embd" else 128 if name[-2:] in ("_k", "_v") else WIDTH
    return np.pad(values, ((0, rows - len(values)), (0, WIDTH - values.shape[1])))


def write(path):
    said = gguf.GGUFReader(HERE / "stories260K.gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in said.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = CHANGED.get(name, field.contents())
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, value, field.types[0], inner)
    for name, values in matrices():
        writer.add_tensor(f"{name}.weight", widened(name, values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Settings(ctypes.Structure):
    """`llama_model_quantize_params`; of what follows these two, the defaults stay."""

    _fields_ = [("threads", ctypes.c_int32), ("ftype", ctypes.c_int32), ("rest", ctypes.c_uint8 * 256)]


def quantise(source, target):
    for name in ("libggml-base.so", "libggml-cpu-x64.so", "libggml.v0.4.0.so"):
        ctypes.CDLL(str(LIBRARIES / name), mode=ctypes.RTLD_GLOBAL)
    llama = ctypes.CDLL(str(LIBRARIES / "libllama.v0.4.0.so"))
    llama.llama_model_quantize_default_params.restype = Settings
    llama.llama_model_quantize.restype = ctypes.c_uint32
    llama.llama_backend_init()
    settings = llama.llama_model_quantize_default_params()
    settings.ftype = Q4_K_M
    names = str(source).encode(), str(target).encode()
    assert llama.llama_model_quantize(*names, ctypes.byref(settings)) == 0


with tempfile.TemporaryDirectory() as folder:
    plain, mixed = pathlib.Path(folder) / "f32.gguf", pathlib.Path(folder) / "mixed.gguf"
    write(plain)
    quantise(plain, mixed)
    small = zstandard.ZstdCompressor(level=19).compress(mixed.read_bytes())
    (HERE / "stories260K-Q4_K_M.gguf.zst").write_bytes(small)
