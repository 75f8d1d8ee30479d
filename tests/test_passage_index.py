"""One index a tenant: found by words and meaning, changed without a trace, refused when it is another's or damaged."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from passage_sets import HASHED, LATE, RUSSIAN, hashed, shop

from jaxrec.retrieval.passages import folder as folders
from jaxrec.retrieval.passages.document import Document
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.retrieval.passages.folder import PassageIndexConfig
from jaxrec.retrieval.passages.fusion import Fusion, Parts, learn
from jaxrec.retrieval.passages.index import PassageIndex, reindex
from jaxrec.retrieval.passages.late import PassageTokens, max_sim
from jaxrec.retrieval.passages.rewriting import depends, rewritten
from jaxrec.retrieval.passages.shelf import Shelf, folder_of
from jaxrec.retrieval.passages.word_index import WordIndex, stems
from jaxrec.retrieval.top_k import SearchError

pytest.importorskip("bm25s", reason="bm25s is not installed (extra `talk`)")
pytest.importorskip("Stemmer", reason="PyStemmer is not installed (extra `talk`)")
ONE_BY_ONE = PassageIndexConfig(cut=dataclasses.replace(PassageIndexConfig().cut, least=0))


@pytest.fixture
def index():
    return PassageIndex.build("luna", shop(), HASHED, ONE_BY_ONE)


def test_the_right_passage_is_quoted_by_its_place(index):
    quote = index.search("parcels to Norway by sea", 1).quotes[0]
    assert quote.headings == ("Luna Coffee", "Delivery", "Abroad")
    assert shop()[0].text[quote.start : quote.end] == quote.text
    assert quote.citation == (
        f"Luna Coffee > Delivery > Abroad (shop.md, {quote.start}-{quote.end})"
    )
    assert index.search("open from nine", 1).quotes[0].place == "Hours"


def test_neighbours_are_one_quote(index):
    found = index.search("parcels orders delivery country Norway roasting days", 2)
    (quote,) = found.quotes
    assert quote.numbers == (1, 2) and quote.headings == ("Luna Coffee", "Delivery")
    assert "### Abroad" in quote.text and shop()[0].text[quote.start : quote.end] == quote.text
    narrow = dataclasses.replace(ONE_BY_ONE, joined=10)
    apart = PassageIndex.build("luna", shop(), HASHED, narrow).search(found.question, 2)
    assert [q.numbers for q in apart.quotes] in ([(1,), (2,)], [(2,), (1,)])


def test_scores_are_the_weighted_sum_and_words_count(index):
    for hit in index.search("unopened bags", 3).hits:
        own = Fusion().vectors * hit.parts["vectors"] + Fusion().words * hit.parts["words"]
        assert hit.score == pytest.approx(own, abs=1e-6)
    blind = TextEncoder("blind", lambda texts: np.ones((len(texts), 2)))
    by_words = PassageIndex.build("luna", shop(), blind, ONE_BY_ONE)
    assert by_words.search("sending back unopened bags", 1).quotes[0].headings[-1] == "Returns"


def test_late_interaction_finds_what_pooled_vectors_do_not():
    blind = dataclasses.replace(LATE, passages=lambda texts: np.ones((len(texts), 2)))
    config = dataclasses.replace(ONE_BY_ONE, fusion=Fusion(1.0, 0.0, 1.0))
    index = PassageIndex.build("luna", shop(), blind, config)
    assert index.search("customs duties", 1).quotes[0].headings[-1] == "Abroad"
    tokens = PassageTokens.of([np.eye(3)[:2], np.zeros((0, 3)), np.eye(3)[2:]])
    like = max_sim(np.eye(3)[[0, 2]], tokens, [0, 1, 2])
    assert np.allclose(like, [0.5, 0.0, 0.5])


def test_putting_twice_is_putting_once_and_what_is_known_costs_nothing(index):
    asked = []
    index.encoder = TextEncoder("hashed", lambda texts: asked.extend(texts) or hashed(texts))
    before = index.passages
    assert index.put(*shop()) == 0 and index.passages == before and not asked
    longer = dataclasses.replace(shop()[1], text="Open from nine to five.\n\nClosed in July.")
    assert index.put(longer) == 1 and len(asked) == 1
    assert "Closed in July." in index.search("closed in July", 1).quotes[0].text
    fresh = PassageIndex.build("luna", [shop()[0], longer], HASHED, ONE_BY_ONE)
    for question in ("roasting", "closed", "customs"):
        assert index.search(question).quotes == fresh.search(question).quotes


def test_a_removed_document_leaves_no_trace(index, tmp_path):
    secret = Document("secret.md", "# Vault\n\nThe xylophone opens it.")
    index.put(secret)
    index.save(tmp_path / "i")
    assert _holds(tmp_path, "xylophon")
    assert index.remove("secret.md") and not index.remove("secret.md")
    index.save(tmp_path / "i")
    assert not _holds(tmp_path, "xylophon") and not _holds(tmp_path, "secret.md")
    never = PassageIndex.build("luna", shop(), HASHED, ONE_BY_ONE)
    for question in ("xylophone", "vault", "parcels"):
        assert index.search(question).hits == never.search(question).hits


def _holds(folder, text):
    return any(text.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("encoder", [HASHED, LATE], ids=["vectors", "tokens"])
def test_what_was_saved_comes_back(encoder, tmp_path):
    config = dataclasses.replace(ONE_BY_ONE, fusion=Fusion(1.0, 0.5, 0.25), language="en+ru")
    index = PassageIndex.build("luna", [*shop(), Document("чай.md", RUSSIAN)], encoder, config)
    index.save(tmp_path / "i")
    index.save(tmp_path / "i")
    again = PassageIndex.open(tmp_path / "i", encoder, tenant="luna")
    assert again.config == config and again.documents == index.documents
    for question in ("parcels", "как вернуть пачку", "nothing of it"):
        assert again.search(question).hits == index.search(question).hits
    assert again.search("возвращать невскрытую пачку", 1).quotes[0].headings[-1] == "Возврат"
    assert again.put(Document("new", "A new page.")) == 1 and len(again) == len(index) + 1


def test_another_tenant_encoder_or_form_is_refused(index, tmp_path):
    index.save(tmp_path / "i")
    refused = {
        "not of 'mars'": lambda: PassageIndex.open(tmp_path / "i", HASHED, tenant="mars"),
        "not of 'other'": lambda: PassageIndex.open(tmp_path / "i", TextEncoder("other", hashed)),
        "no index of passages": lambda: PassageIndex.open(tmp_path, HASHED),
        "is no index": lambda: index.save(tmp_path),
        "is empty": lambda: PassageIndex("luna", HASHED).search("anything"),
        "hold no text": lambda: PassageIndex.build("luna", [Document("a", " ")], HASHED),
        "two documents": lambda: index.put(Document("a", "x"), Document("a", "y")),
        "k is 0": lambda: index.search("anything", 0),
        "not finite": lambda: PassageIndex.build(
            "luna", shop(), TextEncoder("nan", lambda texts: np.full((len(texts), 2), np.nan))
        ),
        "gave \\(3,\\)": lambda: PassageIndex.build(
            "luna", shop(), TextEncoder("flat", lambda texts: np.ones(3))
        ),
    }
    for message, act in refused.items():
        with pytest.raises(SearchError, match=message):
            act()


def test_damage_is_named(index, tmp_path):
    index.save(tmp_path / "i")
    for path in sorted(p for p in (tmp_path / "i").rglob("*") if p.is_file()):
        for harm in (lambda b: b[:-1], lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b""):
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
            shutil.copytree(tmp_path / "i", tmp_path / "c")
            broken = tmp_path / "c" / path.relative_to(tmp_path / "i")
            broken.write_bytes(harm(path.read_bytes()))
            if path.name == "index.json" and broken.read_bytes().endswith(b"}"):
                continue  # without its line end it says the same
            with pytest.raises(SearchError) as said:
                PassageIndex.open(tmp_path / "c", HASHED)
            assert path.name in str(said.value) and "\n" not in str(said.value)
        (tmp_path / "c" / path.relative_to(tmp_path / "i")).unlink()
        with pytest.raises(SearchError):
            PassageIndex.open(tmp_path / "c", HASHED)
    head = json.loads((tmp_path / "i" / "index.json").read_text())
    (tmp_path / "i" / "index.json").write_text(json.dumps(head | {"version": 99}))
    with pytest.raises(SearchError, match="version 99"):
        PassageIndex.open(tmp_path / "i", HASHED)


def test_reindex_swaps_whole_and_keeps_settings(index, tmp_path):
    index.save(tmp_path / "i")
    opened = PassageIndex.open(tmp_path / "i", HASHED)
    other = TextEncoder("other", lambda texts: hashed(texts)[:, :7])

    def fails(texts):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        reindex(tmp_path / "i", TextEncoder("other", fails))
    assert (
        PassageIndex.open(tmp_path / "i", HASHED).search("bags").hits == index.search("bags").hits
    )
    made = reindex(tmp_path / "i", other)
    assert made.config == ONE_BY_ONE and made.tenant == "luna"
    assert PassageIndex.open(tmp_path / "i", other).search("bags").hits == made.search("bags").hits
    assert opened.search("bags").hits == index.search("bags").hits  # maps of the old files stay
    with pytest.raises(SearchError, match="not of 'hashed'"):
        PassageIndex.open(tmp_path / "i", HASHED)
    assert {p.name for p in tmp_path.iterdir()} == {"i"}


def test_no_question_finds_a_foreign_passage(tmp_path):
    rng = np.random.default_rng(0)
    vocabulary = [f"word{i}" for i in range(40)]
    text = lambda n: " ".join(rng.choice(vocabulary, n))
    shelf = Shelf(tmp_path, HASHED, open_at_once=2)
    names = ["a", "b", "../a", "a/b", "A", "ä", "a" * 300]
    for name in names:
        held = shelf.begin(name)
        held.put(*(Document(f"{i}", f"{text(8)}. Mark-{names.index(name)}.") for i in range(6)))
        shelf.keep(held)
    assert len({folder_of(tmp_path, name).name.lower() for name in names}) == len(names)
    assert all(folder_of(tmp_path, name).parent == tmp_path for name in names)
    for round_ in range(2):
        for at, name in enumerate(names):
            asked = [f"{text(3)} Mark-{rng.integers(len(names))}" for _ in range(75)]
            for found in shelf.of(name).search_all(asked, 6):
                assert found.hits and all(f"Mark-{at}." in h.passage.text for h in found.hits)
                assert all(f"Mark-{at}." in quote.text for quote in found.quotes), round_
    assert shelf.forget("a") and not shelf.forget("a") and len(shelf.of("../a"))
    with pytest.raises(SearchError, match="no index"):
        shelf.of("a")
    shutil.copytree(folder_of(tmp_path, "b"), folder_of(tmp_path, "a"))
    with pytest.raises(SearchError, match="index of 'b'"):
        shelf.of("a")


def test_a_search_sees_one_moment(index):
    before = index._contents
    index.remove("shop.md")
    found = index._found(before, "parcels to Norway", hashed(["parcels to Norway"])[0], None, 1)
    assert found.quotes[0].document == "shop.md" and len(index) == 1


def test_learned_weights_follow_the_part_that_is_right():
    rng = np.random.default_rng(0)
    right_N, asked = rng.integers(0, 10, 200), []
    for right in right_N:
        good = rng.normal(size=10) + 2 * np.eye(10)[right]
        weak = rng.normal(size=10) + 0.7 * np.eye(10)[right]
        asked.append(Parts(good, weak, rng.normal(size=10)))
    found = learn(asked, right_N)
    assert found.vectors > 2 * found.words > 8 * found.late
    right = lambda f: np.mean(
        [f.score(p).argmax() == r for p, r in zip(asked, right_N, strict=True)]
    )
    assert right(found) > right(Fusion(1, 0, 0)) > right(Fusion(0, 1, 0))
    with pytest.raises(SearchError, match="no questions"):
        learn([], np.zeros(0, int))
    with pytest.raises(SearchError, match="none below 0"):
        Fusion(0.0, 0.0, 1.0)


def test_words_by_stem_in_both_languages():
    assert stems("Shipping shipped", "en") == ["ship", "ship"]
    assert stems("посылки посылку ёлка", "ru")[:2] == ["посылк", "посылк"]
    assert stems("посылки shipping", "en+ru") == ["посылк", "ship"]
    words = WordIndex.build(["a cat sat", "dogs", ""], "en")
    assert words.scores("Dog?").argmax() == 1 and not words.scores("bird").any()
    assert words.rarity("cat bird") == pytest.approx({"cat": np.log(4), "bird": np.log(4)})
    assert not WordIndex.build(["", "!"], "en").scores("cat").any()


@pytest.mark.parametrize(
    ("question", "carried"),
    [
        ("How long does it take?", ("ship", "grinders", "norway")),
        ("And to Sweden?", ("ship", "grinders", "norway")),
        ("What about taxes?", ("ship", "grinders", "norway")),
        ("Do you roast decaffeinated beans?", ()),
        ("?!", ()),
        ("", ()),
    ],
)
def test_a_follow_up_carries_the_topic(question, carried):
    history = [("user", "Do you ship grinders to Norway?"), ("assistant", "Yes, by sea.")]
    found = rewritten(question, history)
    assert found.carried == carried and found.question.startswith(question.rstrip())
    assert rewritten(question, []).question == question


def test_the_topic_is_the_last_one_that_stood_by_itself():
    said = ["Which decaf beans do you roast?", "Can I return a damaged kettle?", "Is it free?"]
    found = rewritten("How long do I have for that?", [("user", text) for text in said])
    assert found.carried[:3] == ("return", "damaged", "kettle") and "decaf" not in found.carried
    assert rewritten("а сколько они идут?", [("user", "Посылки в Норвегию?")]).carried == (
        "посылки",
        "норвегию",
    )
    assert depends("а за границу?") and not depends("Сколько идут посылки в Норвегию?")


def test_a_model_may_write_the_question_but_not_invent_it():
    history = [("user", "Do you ship grinders to Norway?"), ("assistant", "Yes, by sea.")]
    ask = lambda said: rewritten("How long does it take?", history, complete=lambda _: said)
    assert ask("How long does shipping take? ship norway").by_model is False  # "shipping" is new
    assert ask(" How long does it take to ship grinders to Norway?\n").by_model
    for bad in ("", "two\nlines", "take " * 200, "Is the moon made of cheese? take"):
        assert not ask(bad).by_model and ask(bad).carried


def test_a_search_needs_no_jax(index, tmp_path):
    index.save(tmp_path / "i")
    code = (
        "import sys; from passage_sets import HASHED;"
        "from jaxrec.retrieval.passages.index import PassageIndex;"
        f"print(PassageIndex.open({str(tmp_path / 'i')!r}, HASHED).search('customs', 1).quotes[0].headings[-1]);"
        "print(sorted({'jax', 'torch', 'transformers', 'faiss', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="tests",
        env={**__import__("os").environ, "PYTHONPATH": ".."},
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["Abroad", "[]"], done.stderr


def test_the_head_says_what_it_is(index, tmp_path):
    index.save(tmp_path / "i")
    _, head = folders.read_head(tmp_path / "i", verify=True)
    assert (head["tenant"], head["encoder"], head["passages"]) == ("luna", "hashed", len(index))
