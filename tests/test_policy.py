"""The policy head: what it reads, what its sets hold, and that p helps where judges differ."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import mesh as meshes
from jaxrec.config import RunError
from jaxrec.data import policy_sets
from jaxrec.data.policy_sets import TEST, TRAIN, VALID, PolicySet, PolicySetConfig
from jaxrec.models.personal.policy import PolicyHead, PolicyHeadConfig
from jaxrec.models.personal.policy_folder import load_policy
from jaxrec.models.text.text_vectors import Texts, compressed
from jaxrec.structs import LFEOutput
from jaxrec.world.grammar import fact_met
from jaxrec.world.judged_answers import judged_answers
from jaxrec.world.style import check
from jaxrec.world.tenants import generate

CONVABUSE = tuple(f"lewidi/LeWiDi_2-2023__ConvAbuse_{p}.json.gz" for p in ("train", "dev", "test"))
ABCD = tuple(f"abcd/{part}.json" for part in ("guidelines", "kb", "ontology"))


def read(length: int, seed: int, rows: int = 3) -> LFEOutput:
    rng = np.random.default_rng(seed)
    mask = np.arange(length)[None, :] < rng.integers(2, length + 1, (rows, 1))
    seq = np.where(mask[..., None], rng.normal(size=(rows, length, 6)), 0.0)
    return LFEOutput(
        *map(jnp.asarray, (seq.astype(np.float32), seq.mean(1).astype(np.float32), mask))
    )


# -------------------------------------------------------------------------------------------------- head


@pytest.fixture(scope="module")
def head():
    cfg = PolicyHeadConfig(
        ("a", "b"), 6, 4, ("question", "answer"), True, 5, 8, 2, ("add", "film", "bilinear")
    )
    model = PolicyHead(cfg)
    given = (read(3, 0), read(4, 1), read(5, 2))
    p = jax.random.normal(jax.random.key(1), (3, 4))
    init = jax.jit(lambda key: model.init(key, *given, p)["params"])
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), init(jax.random.key(0)))
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    return jax.jit(lambda *a: model.apply({"params": params}, *a)), given, p


def test_the_head_reads_question_answer_grounds_and_p(head):
    apply, (question, answer, grounds), p = head
    own = apply(question, answer, grounds, p)
    assert own.shape == (3, 2)
    for changed in (
        (read(3, 9), answer, grounds, p),
        (question, read(4, 9), grounds, p),
        (question, answer, read(5, 9), p),
        (question, answer, grounds, p[::-1]),
    ):
        assert np.abs(apply(*changed) - own)[[0, 2]].max() > 1e-3


def test_padding_and_the_order_of_the_grounds_change_nothing(head):
    apply, (question, answer, grounds), p = head
    own = apply(question, answer, grounds, p)
    junk = lambda z: z.replace(z_seq_BLD=jnp.where(z.mask_BL[..., None], z.z_seq_BLD, 1e3))
    np.testing.assert_allclose(apply(question, junk(answer), junk(grounds), p), own, atol=1e-4)
    turned = grounds.replace(z_seq_BLD=grounds.z_seq_BLD[:, ::-1], mask_BL=grounds.mask_BL[:, ::-1])
    np.testing.assert_allclose(apply(question, answer, turned, p), own, atol=1e-4)
    none = grounds.replace(mask_BL=jnp.zeros_like(grounds.mask_BL))
    assert np.isfinite(apply(question, answer, none, p)).all()


def test_a_head_says_what_it_misses():
    bare = read(4, 1).replace(z_seq_BLD=None, mask_BL=None)
    for cfg, given, said in (
        (PolicyHeadConfig(reads=("grounds",)), (None, bare), "give it the grounds"),
        (PolicyHeadConfig(reads=("answer",), tokens=True), (None, bare), "z_seq"),
        (PolicyHeadConfig(reads=("answer",), align=4), (None, read(4, 1), bare), "z_seq"),
    ):
        with pytest.raises(ValueError, match=said):
            jax.eval_shape(
                PolicyHead(dataclasses.replace(cfg, p_enters=())).init, jax.random.key(0), *given
            )
    with pytest.raises(ValueError, match="different names"):
        PolicyHeadConfig(labels=("a", "a"))


def test_texts_are_looked_up_by_number_and_no_number_is_nothing():
    rng = np.random.default_rng(0)
    mask = np.array([[True, True], [True, False]])
    texts = Texts(rng.normal(size=(2, 3)).astype(np.float32), np.ones((2, 2, 3), np.float16), mask)
    z = jax.jit(lambda texts, i: texts.at(i))(texts, np.array([1, -1]))
    np.testing.assert_allclose(z.z_cls_BD, [texts.z_cls_ID[1], [0, 0, 0]])
    assert np.asarray(z.mask_BL).tolist() == [[True, False], [False, False]]
    assert not np.asarray(z.z_seq_BLD)[1].any()


def test_components_are_found_on_the_seen_rows_alone():
    rng = np.random.default_rng(0)
    z, seen = rng.normal(size=(50, 6)).astype(np.float32), np.arange(50) < 30
    x = compressed(z, seen, 3)
    np.testing.assert_allclose(x[seen].std(0), 1, rtol=1e-3)
    other = z.copy()
    other[~seen] *= 100
    np.testing.assert_allclose(compressed(other, seen, 3)[seen], x[seen], atol=1e-4)


# -------------------------------------------------------------------------------------------------- sets


def test_judged_answers_are_what_the_worlds_own_checks_say():
    answers, known = judged_answers(tenants=12, questions=3)
    style = {t.key: t.style for t in generate(n=12)}
    right = wrong = 0
    for a in answers:
        met = check(a.answer, style[a.tenant])
        if a.violations["grounding"] == 0:
            assert fact_met(a.answer, a.facts)
        if "compliance" in a.violations:
            assert met["disclaimer"] == (a.violations["compliance"] == 0)
        kept, fine = all(met.values()), a.violations["style"] == 0
        right += fine and (kept or a.violations.get("compliance") == 1)
        wrong += not fine and not kept
    broken = sum(a.violations["style"] for a in answers)
    assert right > 0.9 * (len(answers) - broken) and wrong > 0.9 * broken
    assert {a.violations["grounding"] for a in answers} == {0.0, 1.0}
    assert all(len(of.pieces) > 12 for of in known.values())


def test_held_out_tenants_are_the_test_and_nobody_is_in_two_parts():
    data = policy_sets.read_policy_set(PolicySetConfig("world", tenants=30, questions=2))
    part = {t: set(data.split_FN[0][data.tenant_N == t].tolist()) for t in range(30)}
    assert all(len(of) == 1 for of in part.values())
    held = {t.key for t in generate(n=30) if t.held_out}
    assert {data.tenants[t] for t, of in part.items() if of == {TEST}} == held
    assert (data.shown_US >= 0).sum(1).min() > 12


def test_convabuse_keeps_its_split_and_no_text_is_on_both_sides(data_dir):
    data = policy_sets.read_policy_set(PolicySetConfig("convabuse", CONVABUSE))
    assert len(data.tenants) == 8 and data.labels == ("abuse", "severe")
    rows = lambda part: {
        (q, a)
        for q, a in zip(data.question_N[data.split_FN[0] == part],
                        data.answer_N[data.split_FN[0] == part], strict=True)
    }  # fmt: skip
    assert not rows(TRAIN) & rows(TEST) and not rows(VALID) & rows(TEST)
    assert (data.split_FN[0] == TEST).sum() == 2610
    assert (data.target_NW[:, 1] <= data.target_NW[:, 0]).all()  # what is severe is abuse


def test_abcd_tests_flows_whose_guidelines_were_not_read(data_dir):
    data = policy_sets.read_policy_set(PolicySetConfig("abcd", ABCD, folds=5))
    flow = np.array([name.split("/")[0] for name in data.tenants])[data.tenant_N]
    for split in data.split_FN:
        parts = [set(flow[split == part]) for part in (TRAIN, VALID, TEST)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(set(data.tenant_N.tolist())) == 55
    assert (np.concatenate(data.split_FN == TEST) > 0).sum() == len(
        data.tenant_N
    )  # each row tested once
    assert (data.target_NW == 0).sum() == 231  # one allowed action a step


def test_wrong_files_are_named():
    with pytest.raises(RunError, match="train, dev and test"):
        policy_sets.read_policy_set(PolicySetConfig("convabuse"))
    with pytest.raises(RunError, match="folds must be 3"):
        policy_sets.read_policy_set(PolicySetConfig("abcd", ABCD))
    with pytest.raises(RunError, match="no such file"):
        policy_sets.read_policy_set(PolicySetConfig("convabuse", ("a.json",) * 3))


# ------------------------------------------------------------------------------------- training, judging


def planted() -> PolicySet:
    """Eight judges; the even ones call positive what the odd ones call negative. Tells p from everything else."""
    rng = np.random.default_rng(0)
    n, texts = 480, 60
    answer, judge = rng.integers(0, texts, n), rng.integers(0, 8, n)
    yes = (VECTORS[answer, 0] > 0) ^ (judge % 2 == 1)
    target = np.stack([yes, np.where(judge < 6, VECTORS[answer, 1] > 0.5, -1)], 1)
    split = np.where(answer < 36, TRAIN, np.where(answer < 46, VALID, TEST))
    none, empty = np.full(n, -1), np.zeros((8, 0), np.int32)
    return PolicySet(
        ("taste", "rare"), tuple(f"text {i}" for i in range(texts)), none, answer, none,
        target.astype(np.float32), judge, judge, tuple("abcdefgh"), split[None], empty, empty,
        empty.astype(np.float32),
    )  # fmt: skip


VECTORS = np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)


@pytest.mark.slow
def test_training_and_judging_from_end_to_end(tmp_path, monkeypatch, capsys):
    import jaxrec.eval.policy as judge
    import jaxrec.train.policy as stage
    from jaxrec.training.loop import LoopConfig
    from jaxrec.training.optimizer import OptConfig

    one = meshes.make(meshes.MeshConfig(), jax.devices()[:1])  # eight fake devices only take longer
    monkeypatch.setattr(stage.mesh, "make", lambda *_: one)
    for module in (stage, judge):
        monkeypatch.setattr(module, "read_policy_set", lambda cfg: planted())
        monkeypatch.setattr(module, "read_texts", lambda texts, **how: Texts(VECTORS))
    loop = LoopConfig(steps=150, eval_every=50, monitor="valid_nll", progress=False)
    cfg = stage.PolicyConfig(
        head=PolicyHeadConfig(reads=("answer",), d_p=4, width=16), profile="table", rows=32,
        opt=OptConfig(lr=2e-2), loop=loop, out=str(tmp_path / "run"), fewest=10,
    )  # fmt: skip
    found = stage.main(cfg)
    assert found["0/own_p"] < found["0/no_p"] - 0.15
    # what was finished is not trained again, and comes out the same
    assert stage.main(cfg) == pytest.approx(found)
    capsys.readouterr()
    path = judge.main(judge.PolicyEvalConfig(str(tmp_path / "run"), draws=50, out=str(tmp_path)))
    record = json.loads(path.read_text())
    row = {(r["label"], r["row"]): r for r in record["rows"]}
    assert row["taste", "own_p"]["auprc"] > 0.9
    for other in ("mean_p", "shuffled_p", "no_p"):
        assert row["taste", "own_p"]["auprc"] > row["taste", other]["auprc"] + 0.1
    assert row["rare", "own_p"]["n"] < row["taste", "own_p"]["n"]  # unknown labels are not scored
    shares = [
        sum(r[a] for a in ("pass", "micro_edit", "escalate", "safe_fallback"))
        for r in record["decisions"]
    ]
    np.testing.assert_allclose(shares, 1)
    model = load_policy(tmp_path / "run" / "0" / "own_p" / "model")
    assert model.calibration.tenants and model.tenants == tuple("abcdefgh")
    with pytest.raises(RunError, match="no policy head"):
        load_policy(tmp_path / "run" / "0" / "own_p" / "best")
    with pytest.raises(RunError, match=r"run train\.policy first"):
        judge.main(judge.PolicyEvalConfig(str(tmp_path / "nothing")))
