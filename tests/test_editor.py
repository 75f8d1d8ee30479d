"""The editor: what it is asked, what it is never shown, its loss by hand, and that p finds the own draft."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import mesh as meshes
from jaxrec.config import RunError
from jaxrec.data import candidate_sets, policy_sets
from jaxrec.data.candidate_sets import (
    OUT,
    TEST,
    TRAIN,
    VALID,
    CandidateSet,
    CandidateSetConfig,
    draw_pieces,
    first_shown,
)
from jaxrec.data.policy_sets import PolicySetConfig
from jaxrec.data.rewrites import rewrites
from jaxrec.models.personal.draft_vectors import NAMES, surface
from jaxrec.models.personal.editor import Edited, Editor, EditorBatch, EditorConfig, choose, edit
from jaxrec.models.personal.editor_folder import EditorModel
from jaxrec.models.text.text_vectors import Texts
from jaxrec.objectives.editor import editor
from jaxrec.world.grammar import fact_met
from jaxrec.world.style import fraction_met
from jaxrec.world.tenants import generate

POPQUORN = CandidateSetConfig("popquorn", "popquorn/email_rewriting.csv.gz", folds=5)

# -------------------------------------------------------------------------------------------------- sets


def test_no_email_of_a_test_person_is_in_training(data_dir):
    data = candidate_sets.read_candidate_set(POPQUORN)
    assert len(data.people) == 227 and len(data.texts) > 3000
    for split in data.split_FN:
        of = lambda part, x, split=split: set(x[split == part].tolist())
        people = [of(part, data.person_N) for part in (TRAIN, VALID, TEST)]
        assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
        for part in (TRAIN, VALID):
            assert not of(part, data.context_N) & of(TEST, data.context_N)
    assert (data.split_FN == TEST).sum(0).tolist() == [1] * len(data.person_N)
    own = data.candidate_NJ[:, 0]
    assert (own[:, None] != data.candidate_NJ[:, 1:]).all()  # the own draft is told from the others


def test_the_own_piece_is_never_shown(data_dir):
    data = candidate_sets.read_candidate_set(POPQUORN)
    rows = np.arange(len(data.person_N))
    for context, text in (
        draw_pieces(data, rows, 9, np.random.default_rng(0)),
        first_shown(data, rows, 9, 9),
    ):
        assert not (text == data.candidate_NJ[:, :1]).any()
        assert ((text >= 0) == (context >= 0)).all()
        theirs = data.piece_text_UK[data.person_N]
        assert all(set(t[t >= 0]) <= set(own) for t, own in zip(text, theirs, strict=True))
    few = (first_shown(data, rows, 3, 9)[1] >= 0).sum(1)
    assert few.max() == 3 and few.min() >= 1
    assert not (first_shown(data, rows, 0, 9)[1] >= 0).any()


def test_the_worlds_own_draft_keeps_the_style_and_the_others_do_not():
    cfg = CandidateSetConfig("world", tenants=15, questions=2)
    data = candidate_sets.read_candidate_set(cfg)
    style = [t.style for t in generate(n=15)]
    best = 0
    for n, drafts in enumerate(data.candidate_NJ):
        met = [fraction_met(data.texts[i], style[data.person_N[n]]) for i in drafts]
        best += met[0] > max(met[1:])
    assert best > 0.85 * len(data.candidate_NJ)
    assert set(data.split_FN[0].tolist()) == {TRAIN, VALID, TEST}


PAIRS = [
    {"question": f"{word}?", "chosen": f"aye {word}", "rejected": f"{word}, sir"}
    for word in "abcdef"
]


@pytest.fixture
def shop(tmp_path):
    """A file of one tenant with this many preferences."""

    def shop(count):
        row = {"key": "shop", "guide": "Say aye.", "preferences": PAIRS[:count]}
        (tmp_path / "shop.jsonl").write_text(json.dumps(row))
        return (str(tmp_path / "shop.jsonl"),)

    return shop


def test_tenants_preferences_are_choices_and_their_thumbs_judgements(shop):
    data = candidate_sets.read_candidate_set(CandidateSetConfig("tenants", sources=shop(6)))
    drafts = [[data.texts[i] for i in row] for row in data.candidate_NJ[:2]]
    assert drafts == [["aye a", "a, sir"], ["aye b", "b, sir"]]
    assert data.split_FN[0].tolist() == [TRAIN, TRAIN, TRAIN, VALID, TEST, TRAIN]
    judged = policy_sets.read_policy_set(PolicySetConfig("tenants", sources=shop(6)))
    assert judged.labels == ("disliked",) and judged.target_NW[:4, 0].tolist() == [0, 1, 0, 1]
    assert judged.split_FN[0].tolist() == [s for s in data.split_FN[0] for _ in "+-"]
    assert {judged.texts[i] for i in judged.grounds_N} == {"Say aye."}


@pytest.mark.parametrize("make", [CandidateSetConfig, PolicySetConfig])
def test_no_set_is_read_that_nobody_named(make, shop):
    editing = make is CandidateSetConfig
    read = candidate_sets.read_candidate_set if editing else policy_sets.read_policy_set
    for given, said in (
        ({}, r"data\.kind is tenants"),
        ({"kind": "tenants"}, "no tenants are given"),
        ({"kind": "tenants", "sources": shop(4)}, "to 4 questions: 5 at least"),
    ):
        with pytest.raises(RunError, match=said):
            read(make(**given))


def test_rewrites_state_the_same_facts_in_another_voice():
    tenants = [t for t in generate(n=10) if t.held_out]
    made = rewrites(tenants, 5)
    assert len(made) == 5 * len(tenants)
    for r in made:
        assert fact_met(r.draft, r.facts) and fact_met(r.own, r.facts)
        assert fraction_met(r.own, r.style) >= fraction_met(r.draft, r.style)
    assert np.mean([fraction_met(r.draft, r.style) for r in made]) < 0.85


def test_what_is_not_the_data_set_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,text\n1,x\n")
    with pytest.raises(RunError, match="no column 'original email'"):
        candidate_sets.read_candidate_set(CandidateSetConfig("popquorn", str(tmp_path / "a.csv")))
    rows = "user_id,original email,revised email\n1,x,y\n1,z,z\n2,x,\n"
    (tmp_path / "b.csv").write_text(rows)
    with pytest.raises(RunError, match="too few for 5 folds"):
        candidate_sets.read_candidate_set(CandidateSetConfig("popquorn", str(tmp_path / "b.csv")))


def test_the_surface_sees_what_an_uncased_encoder_cannot():
    calm, loud = surface(["please come over", "PLEASE COME OVER!!"])
    at = NAMES.index
    assert loud[at("capitals")] == 1 and calm[at("capitals")] == 0
    assert loud[at("exclamations")] > calm[at("exclamations")] == 0
    letter = surface(["Hi Ann,\n\nthe report is late.\n\nKind regards,\nBen"])[0]
    assert letter[at("greeting")] == letter[at("closing")] == 1 and letter[at("lines")] > 0
    assert np.isfinite(surface([""])).all() and surface([]).shape == (0, len(NAMES))


# -------------------------------------------------------------------------------------------------- loss


@pytest.fixture(scope="module")
def plain():
    """(params, texts, batch) -> (loss, metrics, gradient) of an editor without p."""
    head = Editor(EditorConfig(d_z=5, width=8, p_enters=()))
    objective = editor(head, keep=0.5, beta=0.7)
    params = jax.jit(head.init)(jax.random.key(0), jnp.zeros((1, 5)), jnp.zeros((1, 1, 5)))[
        "params"
    ]

    @jax.jit
    def value(params, texts, batch):
        loss = lambda params: objective.loss(
            {"editor": params}, {"texts": texts}, None, batch, objective.weigh(batch), None
        )
        (total, aux), grad = jax.value_and_grad(loss, has_aux=True)(params)
        return total, dict(aux.metrics), grad

    score = jax.jit(lambda params, c, d: head.apply({"params": params}, c, d))
    return params, value, score


def choice(drafts: np.ndarray, reference: np.ndarray | None = None) -> EditorBatch:
    rows = len(drafts)
    none = np.full((rows, 1), -1, np.int32)
    keep = np.where(np.arange(drafts.shape[1])[None, :] == 0, 1.0, [[0.0, 0.0, -1.0]] * rows)
    reference = np.zeros(drafts.shape) if reference is None else reference
    return EditorBatch(np.arange(rows, dtype=np.int32), drafts, keep.astype(np.float32), none, none,
                       reference.astype(np.float32))  # fmt: skip


def test_the_loss_by_hand(plain):
    params, value, score = plain
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape).astype(np.float32), params)
    z = rng.normal(size=(8, 5)).astype(np.float32)
    drafts = np.array([[2, 3, 4], [5, 6, -1]], np.int32)
    reference = rng.normal(size=(2, 3))
    total, metrics, _ = value(params, Texts(z), choice(drafts, reference))
    s, keep = (np.asarray(x) for x in score(params, z[:2], z[drafts]))
    f = lambda m: math.log1p(math.exp(-0.7 * m))
    margin = lambda b, j: (s[b, 0] - s[b, j]) - (reference[b, 0] - reference[b, j])
    preference = ((f(margin(0, 1)) + f(margin(0, 2))) / 2 + f(margin(1, 1))) / 2
    said = [
        (keep[0, 0], 1),
        (keep[0, 1], 0),
        (keep[1, 0], 1),
        (keep[1, 1], 0),
    ]  # the third is unknown
    cross = np.mean([math.log1p(math.exp(-x if yes else x)) for x, yes in said])
    assert float(metrics["preference"]) == pytest.approx(preference, rel=1e-4)
    assert float(metrics["keep"]) == pytest.approx(cross, rel=1e-4)
    assert float(total) == pytest.approx(preference + 0.5 * cross, rel=1e-4)
    junk = np.where(drafts < 0, 7, drafts)  # a text in an empty place is not looked at
    again, _, _ = value(
        params, Texts(np.where(np.arange(8)[:, None] == 7, 1e3, z)), choice(drafts, reference)
    )
    assert float(again) == pytest.approx(float(total), rel=1e-5)
    assert float(value(params, Texts(z), choice(junk, reference))[0]) != pytest.approx(float(total))


def test_at_the_reference_the_loss_is_log_two_and_choices_without_drafts_say_nothing(plain):
    params, value, _ = plain
    same = np.ones((8, 5), np.float32)
    drafts = np.array([[2, 3, 4], [5, 6, -1]], np.int32)
    _, metrics, _ = value(params, Texts(same), choice(drafts))
    assert float(metrics["preference"]) == pytest.approx(math.log(2), rel=1e-5)
    assert float(metrics["accuracy"]) == 0  # an equal score wins nothing
    alone = np.array([[2, -1, -1], [-1, 3, 4]], np.int32)
    total, metrics, grad = value(params, Texts(same), choice(alone))
    assert float(metrics["preference"]) == 0 and np.isfinite(float(total))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grad))


def test_a_model_edits_the_drafts_of_a_question(plain):
    """The best draft by the editor's own scores; below the threshold it is written anew."""
    params, _, score = plain
    model = EditorModel(Editor(EditorConfig(d_z=5, width=8, p_enters=())), None, {"editor": params})
    z = {text: np.random.default_rng(len(text)).normal(size=5) for text in ("?", "one", "three")}
    read = lambda said: Texts(np.stack([z[text] for text in said]).astype(np.float32))
    scores, keeps = score(params, read(["?"]).z_cls_ID, read(["one", "three"]).z_cls_ID[None])
    best = int(np.argmax(scores[0]))
    ask = lambda threshold: model.edit(
        "?", ["one", "three"], lambda draft: f"new {draft}", read, threshold=threshold
    )
    kept, anew = ask(float(keeps[0, best]) - 1), ask(float(keeps[0, best]) + 1)
    assert kept == Edited(["one", "three"][best], best, True)
    assert anew == Edited(f"new {kept.text}", best, False)
    with pytest.raises(ValueError, match="no draft"):
        model.edit("?", [], str, read)


def test_choosing_keeping_and_rewriting():
    drafts = ["one", "two"]
    score = lambda keep: lambda said: (np.array([0.1, 0.7]), np.array([5.0, keep]))
    assert edit(drafts, score(1.0), lambda draft: "new") == Edited("two", 1, True)
    assert edit(drafts, score(-1.0), lambda draft: f"better {draft}") == Edited(
        "better two", 1, False
    )
    assert edit(drafts, score(-1.0), lambda draft: "  ") == Edited("two", 1, True)
    with pytest.raises(ValueError, match="not finite"):
        choose(np.array([0.0, np.nan]), np.zeros(2))
    with pytest.raises(ValueError, match="0 scores"):
        choose(np.zeros(0), np.zeros(0))


# --------------------------------------------------------------------------------------- training, asking

VECTORS = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)


def planted() -> CandidateSet:
    """60 people: some like drafts whose first number is high, the others those where it is low."""
    rng = np.random.default_rng(0)
    rows, person = 600, np.repeat(np.arange(60), 10)
    likes = np.where(person % 2 == 0, 1, -1)
    pair = rng.integers(100, 300, (rows, 2))
    better = likes * (VECTORS[pair[:, 0], 0] - VECTORS[pair[:, 1], 0]) > 0
    candidates = np.where(better[:, None], pair, pair[:, ::-1]).astype(np.int32)
    context = rng.integers(0, 100, rows)
    keep = np.tile(np.array([1.0, 0.0], np.float32), (rows, 1))
    split = np.where(person < 36, TRAIN, np.where(person < 46, VALID, TEST))
    split = np.where(np.arange(rows) == 0, OUT, split)
    own = np.tile(np.arange(10), 60)
    return CandidateSet(
        tuple(f"text {i}" for i in range(300)), context, candidates, keep, person, own,
        tuple(map(str, range(60))), context.reshape(60, 10), candidates[:, 0].reshape(60, 10), split[None],
    )  # fmt: skip


@pytest.mark.slow
def test_training_and_asking_from_end_to_end(tmp_path, monkeypatch):
    import jaxrec.eval.editor as ask
    import jaxrec.train.editor as stage
    from jaxrec.models.personal.profile import ProfileEncoderConfig
    from jaxrec.training.loop import LoopConfig
    from jaxrec.training.optimizer import OptConfig

    one = meshes.make(meshes.MeshConfig(), jax.devices()[:1])  # eight fake devices only take longer
    monkeypatch.setattr(stage.mesh, "make", lambda *_: one)
    for module in (stage, ask):
        monkeypatch.setattr(module, "read_candidate_set", lambda cfg: planted())
        monkeypatch.setattr(module, "read_drafts", lambda data, fold, how: Texts(VECTORS))
    loop = LoopConfig(steps=120, eval_every=60, monitor="valid_loss", progress=False)
    cfg = stage.EditorTrainConfig(
        editor=EditorConfig(d_p=4, width=16), rows=64, opt=OptConfig(lr=1e-2), loop=loop,
        encoder=ProfileEncoderConfig(kinds=2, width=16, queries=2, heads=2, prior=1),
        out=str(tmp_path / "run"),
    )  # fmt: skip
    found = stage.main(cfg)
    assert found["0/own_p"] < found["0/no_p"] - 0.1
    assert stage.main(cfg) == pytest.approx(found)  # finished: nothing is trained again
    asked = ask.EditorEvalConfig(str(tmp_path / "run"), ks=(0, 9), draws=50, out=str(tmp_path))
    record = json.loads(ask.main(asked).read_text())
    row = {(r["row"], r["k"]): r for r in record["rows"]}
    assert row["own_p", 0]["top1"] == row["shuffled_p", 0]["top1"] == row["mean_p", 0]["top1"]
    assert row["own_p", 9]["top1"] > 0.8
    for other in ("mean_p", "shuffled_p", "no_p"):
        assert row["own_p", 9]["top1"] > row[other, 9]["top1"] + 0.15
    assert row["own_p", 9]["against_original"] is None  # there is none among these drafts
    with pytest.raises(RunError, match="9 pieces at most"):
        ask.main(ask.EditorEvalConfig(str(tmp_path / "run"), ks=(10,), out=str(tmp_path)))
    with pytest.raises(RunError, match=r"run train\.editor first"):
        ask.main(ask.EditorEvalConfig(str(tmp_path / "nothing")))


def test_measures_by_hand_with_ties_against():
    import jaxrec.eval.editor as ask

    batch = EditorBatch(np.array([9, 9]), np.array([[1, 2, 9], [1, 9, -1]]), np.array([[1, -1, 0], [1, 0, 0]]),
                        None, None)  # fmt: skip
    score = np.array([[2.0, 2.0, 1.0], [3.0, 1.0, -1e9]])
    got = ask.measure(batch, score, np.array([[1.0, 5.0, 1.0], [1.0, -1.0, 9.0]]))
    np.testing.assert_allclose(got["mrr"], [0.5, 1])  # an equal score stands before the own draft
    np.testing.assert_allclose(got["pairs"], [0.5, 1])
    np.testing.assert_allclose(got["against_other"], [0, np.nan])
    np.testing.assert_allclose(got["against_original"], [1, 1])
    np.testing.assert_allclose(got["keep"], [0.5, 1])
    with pytest.raises(ValueError, match="NaN"):
        ask.measure(batch, score * np.nan, score)
