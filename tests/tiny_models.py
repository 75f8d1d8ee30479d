"""Tiny model folders with random weights and real tokenizers of other makers' kinds, and a tenant of a user's own.

qwen2   byte-level BPE, ChatML, no <bos>
llama3  byte-level BPE, header tokens, reserved ones
phi2    byte-level BPE, no template, one token for begin and end
llama2  metaspace BPE with byte fallback, a template that opens no answers
gemma3  the same without a space before a text, line breaks as tokens, a system message that goes into the user's turn
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import hub
from jaxrec.nn.decoder import Decoder, DecoderConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set guide = '' %}{% set talk = messages %}{% if messages[0]['role'] == 'system' %}"
    "{% set guide = messages[0]['content'] + '\n\n' %}{% set talk = messages[1:] %}{% endif %}{% for m in talk %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ guide if loop.first else '' }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SPECIAL = {
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": [
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eot_id|>", *(f"<|reserved_special_token_{i}|>" for i in range(8))),
    ],
    "phi2": ["<|endoftext|>"],
    "llama2": ["<unk>", "<s>", "</s>"],
    "gemma3": [
        *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        *(f"<unused{i}>" for i in range(8)),
    ],
}
SETTINGS = {
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHATML},
    "llama3": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "chat_template": LLAMA3,
    },
    "phi2": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "llama2": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": LLAMA2,
    },
    "gemma3": {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    | {"chat_template": GEMMA3},
}
KINDS = tuple(SPECIAL)
WORDS = [
    f"The {a} shop of {b} opens at {i}. Hello! Warm wishes, the mill."
    for i in range(12)
    for a in "xyzu"
    for b in "vwst"
]
_SMALL = DecoderConfig(
    d_model=32, layers=2, heads=4, groups=2, head_dim=8, d_ff=48, max_positions=256, init_std=0.2
)
_LIKE = {
    "qwen2": {"qkv_bias": True, "tied": True},
    "llama3": {"rope_theta": 5e5},
    "llama2": {},
    "gemma3": {
        "norm": "rms_offset", "qk_norm": True, "post_norms": True, "embed_scaled": True, "tied": True,
        "activation": "gelu_tanh", "layer_types": ("local", "global"), "window": 8, "rope_theta": 1e6,
        "local_rope_theta": 1e4,
    },
    "phi2": dict.fromkeys(
        ("qkv_bias", "o_bias", "mlp_bias", "head_bias", "parallel"), True
    ) | {"norm": "layer", "gated": False, "activation": "gelu_tanh", "rope_fraction": 0.5, "groups": 4},
}  # fmt: skip


def tokenizer(kind: str, folder: Path) -> int:
    """Writes a tokenizer of this kind; gives how many tokens it has."""
    pieces = kind in ("llama2", "gemma3")
    core = _metaspace(kind) if pieces else _byte_level(SPECIAL[kind])
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS[kind]))
    if kind == "gemma3":
        ends = [SPECIAL[kind].index(end) for end in ("<eos>", "<end_of_turn>")]
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return core.get_vocab_size()


def model(kind: str, folder: Path, spare: int = 0, **changes) -> Path:
    """Writes a whole model folder. spare: rows of the embedding beyond the tokens, as Qwen has them."""
    vocab = tokenizer(kind, folder) + spare
    cfg = dataclasses.replace(_SMALL, vocab=vocab, **{**_LIKE[kind], **changes})
    like = jax.eval_shape(Decoder(cfg).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    rng = np.random.default_rng(0)
    around = 0 if cfg.norm == "rms_offset" else 1
    draw = lambda path, x: np.float32(rng.normal(size=x.shape) * 0.2) + around * _is_scale(path)
    hub.save(folder, cfg, jax.tree_util.tree_map_with_path(draw, like["params"]))
    return folder


def tenant(folder: Path) -> Path:
    """A tenant's folder as a user would bring it: a guide, a page, five dialogues and two others to measure on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "guide.md").write_text("We greet with Hello. We are brief. We sign off as the mill.")
    said = lambda i: [
        {"role": "user", "content": f"When do you open on day {i}?"},
        {"role": "assistant", "content": f"Hello! We open at {i}. Warm wishes, the mill."},
    ]
    lines = lambda rows: "".join(json.dumps({"messages": said(i)}) + "\n" for i in rows)
    (folder / "dialogues.jsonl").write_text(lines(range(5)))
    (folder / "heldout.jsonl").write_text(lines(range(5, 7)))
    return folder


def _is_scale(path) -> np.float32:
    """Norms are around one, all else around zero."""
    return np.float32("norm" in str(path) and "scale" in str(path[-1]))


def _byte_level(special):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    core.train_from_iterator(WORDS, trainer)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return core


def _metaspace(kind):
    """As SentencePiece models are converted: pieces begin with ▁, and what has no piece falls back to bytes."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )

    prefixed = kind == "llama2"
    replace = normalizers.Replace(" ", "▁")
    as_pieces = lambda: (
        normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefixed else replace
    )
    first = Tokenizer(models.BPE())
    first.normalizer = as_pieces()
    first.train_from_iterator(
        [word if prefixed else f" {word}" for line in WORDS for word in line.split(" ")],
        trainers.BpeTrainer(vocab_size=80, show_progress=False),
    )
    told = json.loads(first.to_str())["model"]
    names = [*SPECIAL[kind], *(f"<0x{i:02X}>" for i in range(256))]
    names += sorted(told["vocab"], key=told["vocab"].get)
    core = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)},
            [tuple(pair) for pair in told["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = as_pieces()
    after = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*after, *[decoders.Strip(" ", 1, 0)] * prefixed])
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL[kind]])
    if not prefixed:
        # As in the published file: a split that finds no space any more, and line breaks found before all else.
        core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        core.add_tokens([AddedToken("\n" * n, normalized=False) for n in (1, 2, 3)])
    return core
