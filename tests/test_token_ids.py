"""The sample world's token rows, by checksum: figures of record were trained on exactly these ids."""

import zlib

import numpy as np
import pytest

from jaxrec.data import turns
from jaxrec.data.chat import OwnChat
from jaxrec.data.rewrites import rewrite_rows, rewrites
from jaxrec.data.text import train_tokenizer
from jaxrec.world.tenants import generate


@pytest.fixture(scope="module")
def world():
    tenants = generate(n=3)
    tok = train_tokenizer([d.answer for t in tenants for d in t.onboarding], 420)
    return tenants, OwnChat(tok)


def crc(rows) -> int:
    """Of all arrays of a nest, by name."""
    if isinstance(rows, dict):
        told = repr({name: crc(part) for name, part in sorted(rows.items())}).encode()
    else:
        array = np.ascontiguousarray(rows)
        told = f"{array.dtype} {array.shape}".encode() + array.tobytes()
    return zlib.crc32(told)


def test_the_rows_of_the_sample_world_are_what_they_always_were(world):
    tenants, chat = world
    texts = [
        ([(s.role, s.text) for s in d.turns[:-1]], d.answer) for t in tenants for d in t.onboarding
    ]
    alike = turns.texts_alike(tenants)
    topics = turns.topics_of(tenants, alike)
    rows = {
        "turns": turns.turn_rows(chat, [t.onboarding[:8] for t in tenants], 24, 32)._asdict(),
        "pieces": turns.evidence_pieces(chat, tenants, 20)._asdict(),
        "retrofit": turns.retrofit_rows(
            chat, texts[:40], alike, topics, context=24, length=32, seed=3
        ),
        "rewrites": rewrite_rows(chat, rewrites(tenants, 3), 64, 48)._asdict(),
    }
    assert {name: crc(part) for name, part in rows.items()} == {
        "turns": 670760838,
        "pieces": 2197674299,
        "retrofit": 158492747,
        "rewrites": 1055793752,
    }
