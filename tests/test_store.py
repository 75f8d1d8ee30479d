"""Data that does not fit into memory: stores of token rows are what the readers in memory give, or are refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import checkpoint, hub, mesh
from jaxrec.config import RunError
from jaxrec.data import corpus, text, tokenise
from jaxrec.data.instruction_batches import batches
from jaxrec.data.instructions import encode_instructions, read_instructions
from jaxrec.data.pairs import pair_rows, read_pairs
from jaxrec.data.source import data_hash
from jaxrec.data.store import reading
from jaxrec.data.store.place import Place, StoreError
from jaxrec.data.store.row_kinds import writing_hash
from jaxrec.data.tokenise import TokeniseConfig
from jaxrec.models.language.model_folder import chat_of
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Tokens
from jaxrec.train import sft
from jaxrec.training.loop import LoopConfig

LENGTH = 32
CFG = DecoderConfig(
    vocab=290, d_model=32, layers=2, heads=2, groups=1, head_dim=16, d_ff=48, max_positions=96,
    tied=True, init_std=0.2,
)  # fmt: skip
WORDS = [f"{a} {b}" for a in ("red", "blue", "green", "pink") for b in ("cup", "car", "hat", "bag")]


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A folder with a tiny model, its tokenizer, and a file of each kind."""
    at = tmp_path_factory.mktemp("store")
    params = jax.jit(lambda key: Decoder(CFG).init(key, jnp.zeros((1, 2), jnp.int32))["params"])
    hub.save(at / "model", CFG, jax.device_get(params(jax.random.key(0))))
    text.train_tokenizer(WORDS * 3, 290).save(at / "model" / "tokenizer.json")
    write_lines(
        at / "texts.jsonl", [{"text": f"{n} " + f"the {w}. " * (n % 7 + 1)} for n, w in enumerate(WORDS * 2)]
    )  # fmt: skip
    chats = [{"prompt": f"{n} {w}?", "completion": f"A {w}."} for n, w in enumerate(WORDS * 2)]
    write_lines(at / "chats.jsonl", [*chats[:5], {"prompt": "no answer"}, *chats[5:]])
    write_lines(at / "held.jsonl", [{"prompt": "a hat?", "completion": "A red hat."}] * 2)
    pairs = [{"prompt": f"{w}?", "chosen": f"A {w}.", "rejected": "no"} for w in WORDS]
    write_lines(at / "pairs.jsonl", [*pairs, {"prompt": "x", "chosen": "y", "rejected": "y"}])
    return at


def made(at: Path, name: str, out: str, **more) -> str:
    how = {"model": str(at / "model"), "tokenizer": str(at / "model" / "tokenizer.json")}
    how |= {"length": LENGTH, "kind": name} | more
    cfg = TokeniseConfig((str(at / f"{name}.jsonl"),), str(at / out), **how)
    tokenise.main(cfg)
    return str(at / out)


def rows_in(store: str, kind: str):
    rows = reading.open_stores([store], kind, LENGTH).rows
    return rows[np.arange(len(rows))]


def equal(one, other) -> None:
    same = lambda x, y: np.testing.assert_array_equal(x, y, strict=True)
    jax.tree.map(same, one, other)


def chat_batches(at: Path, **more):
    chat = chat_of(at / "model")
    found = read_instructions(str(at / "chats.jsonl"))[0]
    examples, _ = encode_instructions(chat, found, LENGTH, learn="all")
    return batches(examples, "packed", length=LENGTH, rows=4, **more)


def test_a_store_of_texts_has_the_rows_that_memory_has(at, capsys):
    tok = text.BytePairTokenizer.load(at / "model" / "tokenizer.json")
    encoded = corpus.encode(tok, corpus.read(str(at / "texts.jsonl")))
    packed = Tokens(**text.pack(encoded, LENGTH, split=True))
    store = made(at, "texts", "texts_store")
    equal(rows_in(store, "texts"), packed)
    assert f"{len(packed.ids_BL)} rows" in capsys.readouterr().out
    # Of several shards each has the rows of its own part, in the order of the file.
    parts = [text.pack(encoded[n : n + 10], LENGTH, split=True) for n in range(0, 32, 10)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    equal(rows_in(made(at, "texts", "texts_shards", documents=10), "texts"), Tokens(**whole))
    opened = reading.open_stores([store], "texts", LENGTH)
    assert opened.tokenizer().hash == tok.hash


def test_batches_of_chats_are_those_of_memory_and_what_is_dropped_is_named(at, capsys):
    store = made(at, "chats", "chats_store")
    assert "1 malformed" in capsys.readouterr().out
    memory = chat_batches(at).source
    source = reading.open_stores([store], "chats", LENGTH).source(4)
    state = other = memory.init()
    equal(source.init(), state)
    for step in range(20):  # two epochs and a piece
        (one, state), (two, other) = memory(step, None, state), source(step, None, other)
        equal(one, two)
        equal(state, other)
    halves = [
        reading.open_stores([store], "chats", LENGTH).source(4, share=share)
        for share in (slice(0, 2), slice(2, 4))
    ]
    parts = [half(0, None, half.init())[0] for half in halves]
    whole, _ = source(0, None, source.init())
    equal(jax.tree.map(lambda *x: np.concatenate(x), *parts), whole)


def test_pairs_are_those_of_memory(at):
    pairs = read_pairs(str(at / "pairs.jsonl"))[0]
    rows, _, _ = pair_rows(chat_of(at / "model"), pairs, LENGTH)
    equal(rows_in(made(at, "pairs", "pairs_store"), "pairs"), rows)


def test_parts_make_the_same_store_in_any_order_and_go_on_where_one_was_killed(at):
    whole = made(at, "chats", "one_part", documents=5)
    for part in ("2/3", "0/3", "1/3"):
        store = made(at, "chats", "three_parts", documents=5, part=part)
    sums = [json.loads(Path(s, "store.json").read_text())["sha256"] for s in (whole, store)]
    assert sums[0] == sums[1]
    Path(store, "store.json").unlink()  # as a kill leaves it
    Path(store, "shards", "000003.json").unlink()
    shutil.rmtree(Path(store, "rows", "000003"))
    before = {p: p.stat().st_mtime_ns for p in Path(store, "rows").rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match=r"half written \(6 shards are there\)"):
        rows_in(store, "chats")
    with pytest.raises(StoreError, match="length: 32 -> 64"):
        made(at, "chats", "three_parts", documents=5, length=64)
    made(at, "chats", "three_parts", documents=5)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    equal(rows_in(store, "chats"), rows_in(whole, "chats"))
    tokenise.main(TokeniseConfig((store,), check=True))


def test_what_is_held_out_goes_by_its_prompt_and_is_kept(at):
    store = made(at, "chats", "held_store", hold_out_every=4, documents=7)
    opened = reading.open_stores([store], "chats", LENGTH)
    apart = {row["prompt"] for _, row in opened.held()}
    assert 2 < len(apart) < 14
    assert (
        opened.stores[0][1].tokens
        < reading.open_stores([str(at / "one_part")], "chats", LENGTH).stores[0][1].tokens
    )
    again = made(at, "chats", "held_again", hold_out_every=4)
    there = reading.open_stores([again], "chats", LENGTH).held()
    assert {row["prompt"] for _, row in there} == apart


def test_a_table_gives_what_lines_give(at, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [json.loads(line) for line in (at / "texts.jsonl").read_text().splitlines()]
    for n in range(2):
        pq.write_table(pa.Table.from_pylist(rows[n * 16 : (n + 1) * 16]), tmp_path / f"{n}.parquet")
    tok = str(at / "model" / "tokenizer.json")
    cfg = TokeniseConfig(
        (str(tmp_path),), str(tmp_path / "out"), "texts", tokenizer=tok, length=LENGTH
    )
    tokenise.main(dataclasses.replace(cfg, documents=10))
    equal(rows_in(cfg.out, "texts"), rows_in(str(at / "texts_shards"), "texts"))
    with pytest.raises(RunError, match="no row of the source was usable"):
        tokenise.main(dataclasses.replace(cfg, column="body", out=str(tmp_path / "empty")))
    renamed = pa.Table.from_pylist([{"body": row["text"]} for row in rows])
    (tmp_path / "other").mkdir()
    pq.write_table(renamed, str(other := tmp_path / "other" / "0.parquet"))
    named = dataclasses.replace(cfg, source=(str(other),), column="body", hold_out_every=4)
    tokenise.main(dataclasses.replace(named, out=str(tmp_path / "held")))
    held = reading.open_stores([str(tmp_path / "held")], "texts", LENGTH).held()
    assert {row["text"] for _, row in held} < {row["text"] for row in rows}
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 is not all")
    bad = dataclasses.replace(
        cfg, source=(str(tmp_path / "broken.parquet"),), out=str(tmp_path / "x")
    )
    with pytest.raises(RunError, match="cannot be read"):
        tokenise.main(bad)


def test_a_mixture_keeps_its_shares_and_resumes_exactly(at):
    stores = [made(at, "chats", f"mix_{n}", documents=5, hold_out_every=n) for n in (2, 3)]
    sources = [f"{stores[0]}=3", f"{stores[1]}=1"]
    open_source = lambda **more: reading.open_stores(sources, "chats", LENGTH).source(8, **more)
    source, seen = open_source(), []
    mixture, state = source.source, source.init()
    drawn = np.concatenate([mixture.drawn(0, at) for at in range(0, 800, 8)])
    assert abs(np.mean(drawn == 0) - 0.75) < 0.01
    halved = reading.open_stores([stores[0] + "=1", stores[1] + "=1"], "chats", LENGTH).source(8)
    assert data_hash(source) not in ("", data_hash(halved))
    for step in range(12):
        seen.append((state, *source(step, None, state)))
        state = seen[-1][2]
    for before, batch, after in (seen[9], seen[2]):  # from a checkpoint, in another process
        fresh = open_source()
        restored = jax.tree.map(np.array, before)
        equal(fresh(0, None, restored), (batch, after))
        halves = [open_source(share=s)(0, None, restored)[0] for s in (slice(0, 4), slice(4, 8))]
        equal(jax.tree.map(lambda *x: np.concatenate(x), *halves), batch)


def damaged(store: str, to: Path, change) -> str:
    shutil.copytree(store, to)
    file = next(path for path in to.rglob("*") if path.is_file() and path.parent.name == "0")
    change(file)
    return str(to)


def test_what_cannot_be_trained_on_is_refused_in_one_line(at, tmp_path):
    store = str(at / "chats_store")
    opened = lambda *sources, kind="chats", length=LENGTH, **more: reading.open_stores(
        sources, kind, length, **more
    )
    for how, message in (
        ({"kind": "pairs"}, "store of chats, this stage learns from pairs"),
        ({"length": 64}, "rows of 32 tokens, and --length says 64"),
        ({"learn": "last"}, "learn='all', and this run asks for 'last'"),
    ):
        with pytest.raises(StoreError, match=message):
            opened(store, **how)
    other = text.BytePairTokenizer.load(at / "model" / "tokenizer.json")
    with pytest.raises(StoreError, match="another tokenizer or chat format"):
        opened(store).check_writing(writing_hash(other))
    cut = damaged(store, tmp_path / "cut", lambda f: f.write_bytes(f.read_bytes()[:-9]))
    gone = damaged(store, tmp_path / "gone", lambda f: f.unlink())
    flipped = damaged(
        store, tmp_path / "flipped", lambda f: f.write_bytes(b"\x7f" * 60 + f.read_bytes()[60:])
    )
    for bad, message in ((cut, "damaged"), (gone, "is missing"), (flipped, "damaged")):
        with pytest.raises(StoreError, match=message):
            rows_in(bad, "chats")
        with pytest.raises(StoreError):
            tokenise.main(TokeniseConfig((bad,), check=True))
    with pytest.raises(StoreError, match="no store at"):
        opened(str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match="only stores have weights"):
        reading.all_stores([str(at / "chats.jsonl") + "=0.5"])
    with pytest.raises(StoreError, match="is no store, and the others are"):
        reading.all_stores([store, str(at / "chats.jsonl")])
    with pytest.raises(StoreError, match="above 0"):
        opened(f"{store}=0")
    with pytest.raises(StoreError, match="give each one, or none"):
        opened(f"{store}=1", store)
    (tmp_path / "cut" / "store.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        opened(cut)
    with pytest.raises(RunError, match="neither `text` nor `turns`"):
        made(at, "pairs", "unusable", kind="texts")
    with pytest.raises(
        RunError, match="no file or folder here"
    ):  # and a mistyped name costs nothing
        made(at, "txets", "mistyped", kind="texts")
    made(at, "texts", "mistyped")
    with pytest.raises(RunError, match="with --tokenizer"):
        tokenise.main(TokeniseConfig(("x.jsonl",), "out", "texts"))
    with pytest.raises(RunError, match="from 0/N"):
        tokenise.main(TokeniseConfig(("x.jsonl",), "out", "texts", part="2/2"))


def test_a_place_that_cannot_be_written_is_named(at, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot"):
        Place(str(tmp_path / "file" / "below")).write("x", b"1")


def test_five_steps_on_a_store_are_five_on_its_file(at, tmp_path, monkeypatch):
    """The store's run being stopped after three, and gone on with."""
    make = mesh.make
    monkeypatch.setattr(mesh, "make", lambda cfg, *_: make(cfg, jax.devices()[:1]))
    base, held = str(at / "model"), (str(at / "held.jsonl"),)
    cfg = sft.SftConfig(base=base, held=held, length=LENGTH, rows=4)
    for data, steps in (("chats.jsonl", 5), ("chats_store", 3), ("chats_store", 5)):
        how = LoopConfig(steps=steps, monitor="held_nll", progress=False)
        more = {"data": (str(at / data),), "out": str(tmp_path / data), "loop": how}
        sft.main(dataclasses.replace(cfg, **more))
    file, store = (
        checkpoint.load_params(tmp_path / data / "adapter")
        for data in ("chats.jsonl", "chats_store")
    )
    equal(file, store)
