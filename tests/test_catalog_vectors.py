import json

import numpy as np
import pytest

from jaxrec.cluster import ShardError
from jaxrec.retrieval.catalog_vectors import embed_catalog, open_vectors
from jaxrec.retrieval.top_k import SearchError

TEXTS = [f"thing {i} " + "of the shop " * (i % 5) for i in range(23)]
D = 6


class Encoder:
    """Vectors that depend on the text alone; counts what it was asked; dies after `lives` calls."""

    def __init__(self, lives: int = 99):
        self.asked: list[str] = []
        self.lives = lives

    def __call__(self, texts):
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt
        self.asked += texts
        rows = [np.random.default_rng(list(text.encode())).standard_normal(D) for text in texts]
        return np.asarray(rows, np.float32)


def embed(folder, texts=TEXTS, encoder=None, name="e", **changes):
    options = {"encoder": name, "dim": D, "block": 5} | changes
    return embed_catalog(texts, encoder or Encoder(), folder, **options)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_the_texts_vectors(dtype, tmp_path):
    wanted = Encoder()(TEXTS).astype(dtype)
    for name, texts in {"list": TEXTS, "stream": iter(TEXTS)}.items():
        made = embed(tmp_path / name, texts, dtype=dtype)
        assert len(made) == 23 and made.dtype == dtype
        np.testing.assert_array_equal(made.read(), wanted)
        np.testing.assert_array_equal(np.concatenate(list(made.blocks(4))), wanted)
        np.testing.assert_array_equal(made.read(21, 99), wanted[21:])
    empty = embed(tmp_path / "none", [])
    assert len(empty) == 0 and next(empty.blocks()).shape == (0, D)


@pytest.mark.parametrize("lives", [0, 1, 3, 4])
def test_goes_on_where_it_was_killed(lives, tmp_path):
    first, second = Encoder(lives), Encoder()
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "v", encoder=first)
    with pytest.raises(SearchError, match="is not finished"):
        open_vectors(tmp_path / "v")
    lines = tmp_path / "v" / "blocks.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"block": 7, "ro')  # killed while it wrote a line
    made = embed(tmp_path / "v", iter(TEXTS), encoder=second)
    assert first.asked + second.asked == TEXTS  # nothing twice
    np.testing.assert_array_equal(made.read(), Encoder()(TEXTS).astype(np.float16))
    third = Encoder()
    embed(tmp_path / "v", encoder=third)
    assert third.asked == []


def test_a_catalogue_may_grow_at_its_end(tmp_path):
    embed(tmp_path / "v", TEXTS[:12])
    encoder = Encoder()
    made = embed(tmp_path / "v", encoder=encoder)
    assert encoder.asked == TEXTS[12:]
    np.testing.assert_array_equal(made.read(), Encoder()(TEXTS).astype(np.float16))
    assert len(open_vectors(tmp_path / "v")) == 23


def test_what_does_not_belong_together_is_refused(tmp_path):
    embed(tmp_path / "v")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    wide = lambda texts: np.zeros((len(texts), D + 1), np.float32)
    nan = lambda texts: np.where(np.arange(len(texts))[:, None] == 2, np.nan, np.zeros((1, D)))
    for match, call in {
        "made with encoder 'e', not 'other'": lambda: embed(tmp_path / "v", name="other"),
        "made with dtype": lambda: embed(tmp_path / "v", dtype="float32"),
        "texts of block 1 are not": lambda: embed(tmp_path / "v", [*TEXTS[:6], "new", *TEXTS[7:]]),
        "block 4 are not": lambda: embed(tmp_path / "v", TEXTS[:22]),
        "more blocks than there are texts": lambda: embed(tmp_path / "v", TEXTS[:10]),
        "holds no vectors": lambda: embed(tmp_path / "mine"),
        r"gave \(5, 7\) for 5 texts": lambda: embed(tmp_path / "a", encoder=wide),
        "vector of text 2 is not finite": lambda: embed(tmp_path / "b", encoder=nan),
        "no vectors in": lambda: open_vectors(tmp_path / "nowhere"),
        "of 'e', not of 'x'": lambda: open_vectors(tmp_path / "v", encoder="x"),
        "not possible": lambda: embed(tmp_path / "c", block=0),
    }.items():
        with pytest.raises(SearchError, match=match):
            call()
    np.testing.assert_array_equal(
        open_vectors(tmp_path / "v").read(), Encoder()(TEXTS).astype(np.float16)
    )
    (tmp_path / "v" / "catalog.json").write_text(json.dumps({})[:1])
    with pytest.raises(SearchError, match="is damaged"):
        open_vectors(tmp_path / "v")


def test_an_encoder_that_fails_names_the_block(tmp_path):
    def fails(texts):
        raise MemoryError("no room")

    with pytest.raises(ShardError, match=r"^5 texts from 'thing 0 ' on: MemoryError: no room"):
        embed(tmp_path / "v", encoder=fails)
    with pytest.raises(SearchError, match="say how with `load`"):
        embed(tmp_path / "v", address="auto")
    made = embed_catalog(TEXTS, None, tmp_path / "v", encoder="e", dim=D, block=5, load=Encoder)
    np.testing.assert_array_equal(made.read(), Encoder()(TEXTS).astype(np.float16))
