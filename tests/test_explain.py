"""The whole of GenRec on the sample world: a tiny random language model explains, is judged and tabled."""

import dataclasses
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec import hub
from jaxrec.config import ConfigError
from jaxrec.data.explanations import Shards
from jaxrec.data.text import train_tokenizer
from jaxrec.delta import DeltaConfig
from jaxrec.dialogue.prompts import Generation
from jaxrec.dialogue.prompts.items import query_prompt, rating_prompt
from jaxrec.eval import explain, explain_table, flow_parts
from jaxrec.eval.explain import ExplainConfig
from jaxrec.eval.explain_table import Held
from jaxrec.eval.explain_writer import MeasuredWriter, ModelRow
from jaxrec.eval.flow_parts import PartsConfig
from jaxrec.eval.recommend_flow import Request
from jaxrec.models.language.tuned_folder import load_tuned, save_tuned
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.models.text.token_vectors import TokenVectors
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.nn.encoder import Encoder, EncoderConfig
from jaxrec.recommenders.popularity import Popularity
from jaxrec.rewards.reward import GenRec
from jaxrec.text_metrics import Catalogue
from jaxrec.world.shops import make_shops

CFG = DecoderConfig(
    vocab=320, d_model=16, layers=1, heads=2, groups=1, head_dim=8, d_ff=24, max_positions=320,
    tied=True, init_std=0.2,
)  # fmt: skip
LORA = DeltaConfig(lora_rank=2, lora_sites="q|v")
SHORT = Generation(max_new=6, stop=("\n",))
DIM = 24


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """Compiling is what takes the time here."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class ToyEncoder:
    """Hashed words, summed; as token vectors not summed."""

    dim = DIM

    @classmethod
    def load(cls, source: str | None = None) -> "ToyEncoder":
        return cls()

    def tokens(self, text: str) -> np.ndarray:
        rows = [
            np.random.RandomState(zlib.crc32(w.encode())).normal(size=DIM)
            for w in re.findall(r"\w+", text.lower())
        ]
        return np.array(rows, np.float32).reshape(-1, DIM)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.stack([self.tokens(text).sum(0) for text in texts])
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def pair(user: str, rated: bool, asked: bool = False) -> dict:
    """A row as instruction_pairs writes it."""
    title, persona = f"Book of {user}", "interested in tea, cats"
    prompt = (
        rating_prompt(persona, title, "Film", 5.0, ("Drama",))
        if rated and not asked
        else query_prompt(persona, title, "For tea lovers.")
    )
    return {
        "prompt": prompt, "completion": f" You would love {title}: it has tea and drama.",
        "rating": 5.0 if rated else None,
        "persona": persona, "keywords": ["tea", "cats"], "title": title, "category": "Film" if rated else "Books",
        "features": ["Drama"] if rated else ["tea"], "attributes": ["Film", "Drama"] if rated else [],
        "user": user, "item": title,
        "source": "films" if rated else "xrec-amazon", "template": "rating/2" if rated and not asked else "query/1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, a LoRA that changes it, and pairs, in one folder."""
    at = tmp_path_factory.mktemp("models")
    ids = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(lambda key: Decoder(CFG).init(key, ids)["params"])(jax.random.key(0))
    hub.save(at / "base", CFG, jax.device_get(params))
    told = [pair(f"{n}", bool(n % 3), n % 3 == 2) for n in range(18)]
    train_tokenizer((row["prompt"] + row["completion"] for row in told), CFG.vocab).save(
        at / "base" / "tokenizer.json"
    )
    delta = jax.jit(lambda key: deltas.init(key, Decoder.sites(CFG), LORA))(jax.random.key(1))
    noise = np.random.default_rng(0)
    delta = jax.tree.map(lambda x: noise.normal(size=x.shape, scale=0.5).astype(np.float32), delta)
    save_tuned(at / "lora", {"delta": delta}, cfg=CFG, base=str(at / "base"), spec=LORA)
    with Shards(at / "pairs") as shards:
        for n, row in enumerate(told):
            shards.write("train" if n < 9 else "test", row)
    return at


@pytest.mark.slow
def test_the_writer_repeats_itself_cuts_long_prompts_and_counts_only_completions(models):
    row = ModelRow("tuned", str(models / "lora"), generation=SHORT)
    write = MeasuredWriter(row, batch=4)
    prompts = [pair(f"{n}", True)["prompt"] for n in range(5)]
    texts = write(prompts)
    assert len(texts) == 5 and texts == write(prompts)
    assert len(write(["tea " * 2000 + "\nResponse:"])) == 1  # it loses its beginning
    pairs = [(pair(f"{n}", True)["prompt"], f" tea and {n}") for n in range(5)]
    nats, tokens = write.nats(pairs)
    chat = write.tuned.chat
    assert tokens == sum(len(chat.tok.encode(c)) + 1 for _, c in pairs)  # and the end
    alone = [write.nats([one]) for one in pairs]
    assert nats == pytest.approx(sum(n * t for n, t in alone) / tokens, rel=1e-5)
    base = load_tuned(str(models / "base"))
    assert "delta" not in base.tree and "delta" in write.tuned.tree


@pytest.fixture(scope="module")
def ran(models):
    """The script once."""
    parts = PartsConfig(sample_world=True, out=str(models / "flow"))
    cfg = ExplainConfig(
        name="tiny",
        parts=parts,
        flow=dataclasses.replace(ExplainConfig().flow, k=4),
        requests=(Request("person_003", "something warm"), Request("nobody", "pizza"), Request("nobody")),
        models=(ModelRow("SFT", str(models / "lora"), generation=SHORT),),
        pairs=str(models / "pairs"),
        rows=3, batch=4, timed=1, results=str(models / "results"), out=str(models / "explained"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_parts, "SentenceEncoder", ToyEncoder)
        patch.setattr(explain, "SentenceEncoder", ToyEncoder)
        patch.setattr(
            explain,
            "TokenVectors",
            lambda encoder: lambda texts: [encoder.tokens(t) for t in texts],
        )
        # what ranks is another test's matter
        patch.setattr(
            flow_parts,
            "fit_or_load",
            lambda folder, kind, cfg, split: Popularity().fit(split.train),
        )
        patch.setattr(flow_parts, "make_shops", lambda: make_shops(people=70))
        rows = explain.main(cfg)
    return cfg, rows, json.loads((models / "results" / "tiny.json").read_text())


def test_every_model_is_a_row_of_both_sets(ran):
    _, rows, _ = ran
    at = {(row["model"], row["set"]): row for row in rows}
    names = ["SFT", "reference (ceiling)", "template", "prompt copied (floor)"]
    assert list(at) == [(name, part) for name in names for part in explain_table.SETS]
    for row in rows:
        assert row["n"] == 3 and -1 <= row["reward"] <= 1
        parts = sum(row[f"reward/{p}"] for p in ("length", "personal", "sentiment", "generic"))
        assert row["reward"] == pytest.approx(parts)
    best = at["reference (ceiling)", "rated"]
    assert best["rouge_l"] == pytest.approx(1) and best["similarity"] == pytest.approx(1)
    assert best["named"] == 1 and best["persona"] == 1 and best["true"] == 1 and best["false"] == 0
    assert best["reward/sentiment"] == pytest.approx(0.2)
    assert at["reference (ceiling)", "XRec"]["reward/sentiment"] == 0  # nobody rated
    assert at["prompt copied (floor)", "rated"]["gaming/copying"] > 0.4
    assert at["template", "XRec"]["named"] == 1 and at["template", "XRec"]["true"] is None
    assert at["SFT", "XRec"]["perplexity"] > 1 and best["perplexity"] is None


def test_ten_items_with_reasons_and_every_stage_is_timed(ran):
    cfg, _, record = ran
    texts = {
        name: [json.loads(x) for x in (Path(cfg.out) / f"{name}.jsonl").read_text().splitlines()]
        for name in ("answers", "samples")
    }
    answers = texts["answers"]
    assert record["speaker"] == "SFT" and len(answers) == 3
    assert not texts.keys() & record.keys()  # a file of record holds numbers, and quotes no data
    for answer in answers:
        assert len(answer["items"]) == cfg.flow.k
        for item in answer["items"]:
            assert item["reason"] and item["by"] in ("model", "template")
            assert bool(item["why"]) == (item["by"] == "template")
    assert answers[0]["persona"] and answers[1]["persona"] is None
    stages = [row["stage"] for row in record["latency"]]
    assert stages[-3:] == ["explain", "judge", "total"] and "search" in stages
    assert len(texts["samples"]) == 4 * 3 * 3


def test_what_cannot_run_is_said_in_a_line(models, tmp_path):
    with pytest.raises(ConfigError, match="no model is named"):
        explain.main(ExplainConfig())
    some = (ModelRow("base", str(models / "base")),)
    with pytest.raises(ConfigError, match="'PPO' is none of the models: base"):
        explain.main(ExplainConfig(models=some, speaker="PPO"))
    with Shards(tmp_path / "few") as shards:
        shards.write("test", pair("1", True))
    with pytest.raises(ConfigError, match="no test rows for XRec"):
        explain_table.read_held(tmp_path / "few", 3)


def test_words_of_most_profiles_say_nothing_of_their_reader(models):
    held = explain_table.read_held(models / "pairs", 3)
    assert not any(row["keywords"] for row in held["XRec"].rows)  # all read of tea and cats
    assert all(row["keywords"] for row in held["rated"].rows)


def test_truth_is_counted_by_text():
    row = pair("7", True)
    held = Held(
        (row, row), {"films": Catalogue(["Book of 7", "Book of 8"], [["Film", "Drama"], ["War"]])}
    )
    told = explain_table.truth(held, ["Book of 7 is drama for cats", "Book of 8 is a war film"])
    assert told == {"named": 0.5, "another": 0.5, "persona": 0.5, "true": 1.0, "false": 0.5}
    assert GenRec().score(explain_table.sample(row, "your great book")).parts["sentiment"] == 0.2


def test_token_vectors_are_each_texts_own():
    cfg = EncoderConfig(vocab=40, d_model=16, layers=1, heads=2, d_ff=16, max_positions=64)
    ids = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(lambda key: Encoder(cfg).init(key, ids)["params"])(jax.random.key(0))

    class Letters:
        pad_id = 0

        def encode_all(self, texts, limit):
            return [[1, *(ord(c) % 32 + 3 for c in t[: limit - 2]), 2] for t in texts]

    encoder = object.__new__(SentenceEncoder)
    encoder.cfg, encoder.params, encoder.tokenizer, encoder.limit = cfg, params, Letters(), 64
    embed = TokenVectors(encoder)
    together = embed(["tea", "", "coffee and cake"])
    assert [len(x) for x in together] == [3, 0, 15]
    np.testing.assert_allclose(embed(["coffee and cake"])[0], together[2], atol=1e-5)
