"""Texts written: merged weights write the same, and what comes piece by piece is the whole."""

import jax
import jax.numpy as jnp
import pytest

from jaxrec import delta as deltas
from jaxrec.data.chat import OwnChat
from jaxrec.data.text import train_tokenizer
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.prompts import Generation
from jaxrec.models.language.writing import _sure, decoder_writer, openings_of
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
        merged: decoder_writer(CFG, how, eos=(), text_of=str, merged=merged)(
            tree, [[3, 4], [5]], 0
        ).ids
        for merged in (False, True)
    }
    plain = decoder_writer(CFG, how, eos=(), text_of=str)(
        {"backbone": tree["backbone"]}, [[3, 4], [5]], 0
    )
    assert made[False] == made[True] != plain.ids


@pytest.fixture(scope="module")
def params():
    ids = jnp.zeros((1, 2), jnp.int32)
    return jax.jit(lambda key: Decoder(CFG).init(key, ids)["params"])(jax.random.key(0))


def test_pieces_join_to_the_text_and_hold_whole_characters(params):
    how = Generation(max_new=24, temperature=1.5, top_p=1.0, repetition=1.0, stop=("aé",))
    # 32 ids, each one byte of UTF-8: many of a character's bytes, some letters
    table = ("a€é😀" * 4).encode()[:32]
    text_of = lambda ids: bytes(table[i] for i in ids).decode(errors="replace")
    write = decoder_writer(CFG, how, eos=[5], text_of=text_of, rows=3, longest=4)
    openings = [[3, 4], [5], [6, 7, 8], [9]]
    whole = write({"backbone": params}, openings, 11)
    assert len(whole.texts) == 4 and whole.ids == write({"backbone": params}, openings, 11).ids
    given = [""] * 3
    for pieces in write.stream({"backbone": params}, openings[:3], 11, every=2):
        given = [old + new for old, new in zip(given, pieces, strict=True)]
        for so_far, text in zip(given, whole.texts, strict=False):
            assert text.startswith(so_far)
    assert given == whole.texts[:3]


def test_what_may_still_change_is_held_back():
    assert _sure("a caf\ufffd", ()) == "a caf"
    assert _sure("the end\n", ("\n\n",)) == "the end"
    assert _sure("the end\nof", ("\n\n",)) == "the end\nof"


def test_a_character_of_several_tokens_comes_whole(own):
    said, given, sizes = "Größe: 5 € 😀, naïve", "", []
    ids = own.encode(said)
    for n in range(len(ids) + 1):
        sure = _sure(own.decode(ids[:n]), ())
        assert sure.startswith(given) and "\ufffd" not in sure
        sizes.append(len(sure) - len(given))
        given = sure
    assert given == said and len(ids) > len(said) and 0 in sizes[1:]


def test_a_long_conversation_keeps_its_first_token(own):
    long = openings_of(own, [[("user", "open " * 40)], [("user", "a")]], 12)
    assert len(long[0]) == 12 and len(long[1]) < 12
    assert long[0][0] == long[1][0] == own.marks().first[0]


@pytest.fixture(scope="module")
def own():
    return OwnChat(train_tokenizer([f"open {a}{b} now" for a in "xyzuvw" for b in "xyzuvw"], 280))
