"""Texts written with a tuned model: a DoRA, folded into the weights or not, writes the same."""

import jax
import jax.numpy as jnp

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.prompts import Generation
from jaxrec.models.language.completion import Completion
from jaxrec.nn.decoder import Decoder, DecoderConfig

CFG = DecoderConfig(
    vocab=32,
    d_model=16,
    layers=2,
    heads=2,
    groups=1,
    head_dim=8,
    d_ff=24,
    max_positions=64,
    init_std=0.5,
)
SPEC = DeltaConfig(lora_rank=2, lora_dora=True, lora_sites="q|down")


def test_a_dora_writes_what_its_merged_weights_write():
    @jax.jit
    def begin(key):
        params = Decoder(CFG).init(key, jnp.zeros((1, 2), jnp.int32))["params"]
        delta = deltas.init(key, Decoder.sites(CFG), SPEC)
        moved = lambda path, x: x if "scale_NB" in str(path[-1]) else x + 2.0
        return {"backbone": params, "delta": jax.tree_util.tree_map_with_path(moved, delta)}

    tree, how = begin(jax.random.key(0)), Generation(max_new=8, temperature=0.0, stop=())
    made = {
        merged: Completion(CFG, how, eos=(), text_of=str, merged=merged)(tree, [[3, 4], [5]], 0).ids
        for merged in (False, True)
    }
    plain = Completion(CFG, how, eos=(), text_of=str)(
        {"backbone": tree["backbone"]}, [[3, 4], [5]], 0
    )
    assert made[False] == made[True] != plain.ids
