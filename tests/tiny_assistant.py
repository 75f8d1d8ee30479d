"""A personal model of random weights with a backbone and a tokenizer of its own, as a universal stage leaves it."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tiny_personal as tiny

from jaxrec import checkpoint, config, hub
from jaxrec.data.text import train_tokenizer
from jaxrec.models.personal.personal_folder import save_personal

TALKS = [
    {"question": f"is it {word}?", "answer": f"aye, {word}."} for word in ("red", "blue", "old")
]


def make(at: Path) -> None:
    """Writes AT/model and AT/backbone; the model knows one tenant, "trained"."""
    tok = train_tokenizer([f"{t['question']} {t['answer']}" for t in TALKS], 288)
    cfg = dataclasses.replace(tiny.DECODER, vocab=tok.size, cuts=())
    backbone = hub.model_of(cfg)
    weights = tiny.random_like(backbone.init, jax.random.key(0), np.zeros((1, 2), np.int32))
    hub.save(at / "backbone", cfg, weights["params"])
    tok.save(at / "backbone" / "tokenizer.json")
    _, loaded = hub.load(at / "backbone")
    head = dataclasses.replace(tiny.PERSONAL.head, vocab=tok.size)
    lm = dataclasses.replace(
        tiny.LM, backbone=backbone, cfg=dataclasses.replace(tiny.PERSONAL, head=head)
    )
    own = {**tiny.random_like(lm.init, jax.random.key(0)), "encoder": tiny.params()["encoder"]}
    own["profile"] = {"p": np.ones((1, tiny.D_P), np.float32)}
    facts = {
        "backbone": str(at / "backbone"),
        "backbone_hash": checkpoint.fingerprint(loaded),
        "lfe": config.to_dict(tiny.PERSONAL.lfe),
    }
    save_personal(at / "model", lm, tiny.ENCODER, own, ["trained"], facts)
