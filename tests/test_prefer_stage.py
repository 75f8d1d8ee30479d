"""The preference objective and its stage: padding, microbatches, devices change nothing; p alone moves; resuming."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec import checkpoint, hub
from jaxrec import delta as deltas
from jaxrec import mesh as meshes
from jaxrec.data.text import train_tokenizer
from jaxrec.delta import DeltaConfig
from jaxrec.losses.preference import PreferenceError, PreferenceLoss
from jaxrec.models.language.tuned_folder import load_tuned
from jaxrec.models.language.tuned_lm import TenantLM, TunedLM
from jaxrec.nn.decoder import Decoder
from jaxrec.objectives import reference as references
from jaxrec.objectives.prefer import both, prefer
from jaxrec.objectives.reference import ReferenceFailed, with_reference
from jaxrec.rewards.judges import AnswerJudgeConfig
from jaxrec.structs import Pairs, Thumbs, Turns
from jaxrec.tables import RowAdam
from jaxrec.train import prefer as stage
from jaxrec.training import gradients, optimizer, partition
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig
from jaxrec.training.step import init_state, make_step

LM = TunedLM(Decoder(tiny.DECODER))
SPEC = DeltaConfig(lora_rank=2, lora_sites="q|v")
ONE = meshes.make(meshes.MeshConfig(), jax.devices()[:1])


def tree(seed=3):
    """A backbone with a LoRA that does something."""
    rng = np.random.default_rng(seed)
    like = deltas.shapes(Decoder.sites(tiny.DECODER), SPEC)
    draw = lambda x: rng.normal(scale=0.4, size=x.shape).astype(np.float32)
    return {"backbone": tiny.backbone(), "delta": jax.tree.map(draw, like)}


def answered(rng, rows, length=12):
    """Rows of which a prompt of three tokens is not learned."""
    tokens = tiny.tokens(rng, rows, length)
    loss = tokens.loss_BL * (np.arange(length) >= 3)[None]
    return tokens.replace(loss_BL=loss.astype(np.float32))


def pairs(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    return Pairs(answered(rng, rows), answered(rng, rows))


def thumbs(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    liked = np.arange(rows) % 3 > 0
    return Thumbs(answered(rng, rows), answered(rng, rows), liked)


def widened(tokens, by=5, left=0):
    return jax.tree.map(lambda x: np.pad(x, ((0, 0), (left, by))), tokens)


def taken(how, rows, take=None, asked="switched", mesh=ONE, whole=None):
    """(gradient of the Delta, loss, metrics)."""
    take = take or gradients.summed()
    objective = prefer(LM, how, asked)
    trained, frozen = partition.split(whole or tree(), "delta")
    trained, frozen = meshes.place(mesh, trained), meshes.place(mesh, frozen)
    rows = meshes.place_batch(mesh, rows, 8)
    run = tiny.jit(
        lambda p, f, b: take.take(objective.loss, objective.weigh, p, f, None, b, jax.random.key(0))
    )
    grads, loss, aux = run(trained, frozen, rows)
    return jax.device_get((grads, loss, aux.metrics))


def close(got, wanted, tol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tol, atol=tol), got, wanted)


PAIRED = PreferenceLoss("sigmoid", 0.3, nll=0.2)
KTO = PreferenceLoss("kto", 0.3, up=1.3)


@pytest.fixture(scope="module")
def plain():
    """What one device says of the batch taken whole."""
    return taken(PAIRED, pairs()), taken(KTO, thumbs())


def test_microbatches_on_several_devices_add_up(plain):
    mesh = meshes.make(meshes.MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    close(taken(PAIRED, pairs(), gradients.summed(2), mesh=mesh), plain[0])
    close(taken(KTO, thumbs(), gradients.spanning(2), mesh=mesh), plain[1])
    assert plain[1][2]["baseline"] != 0  # or the baseline would not be tested
    with pytest.raises(ValueError, match="spans the batch"):
        taken(KTO, thumbs(), gradients.summed(2))


def test_padding_and_empty_rows_change_nothing(plain):
    """Padding at both sides; rows of zeros, as at the end of a bucket; rows of which one answer is not learned."""
    rows = pairs()
    wide = Pairs(widened(rows.chosen, left=2), widened(rows.rejected, 3, 4))
    rows = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), wide)
    rows.chosen.ids_BL[12:], rows.chosen.mask_BL[12:], rows.chosen.loss_BL[12:] = 5, True, 1
    close(taken(PAIRED, rows), plain[0])


def test_reference_beforehand_or_switched_is_one_thing(tmp_path, plain):
    whole = tree()
    rows = with_reference(LM, LM.reference(whole), pairs(), tmp_path, ONE, 4)
    close(taken(PAIRED, rows, asked="batch"), plain[0])
    start = whole | {"start": {"delta": whole["delta"]}}  # tuned on from an earlier Delta
    grads, loss, metrics = taken(PreferenceLoss(kl=0.1), pairs(), whole=start)
    assert loss == pytest.approx(np.log(2), abs=1e-6)
    assert metrics["margin"] == 0 and abs(metrics["kl"]) < 1e-6
    assert any(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads))
    with pytest.raises(PreferenceError, match="carries no reference"):
        taken(PreferenceLoss(), pairs(), asked="batch")
    with pytest.raises(PreferenceError, match="switched"):
        prefer(LM, PreferenceLoss(kl=0.1), "batch")
    with pytest.raises(PreferenceError, match="one length"):
        both(pairs().chosen, widened(pairs().chosen))


def test_reference_is_computed_once_and_gone_on_with(tmp_path, monkeypatch):
    rows, base = pairs().chosen, LM.reference(tree())
    whole = references.reference_log_probs(LM, base, rows, tmp_path, ONE, 4)
    (path,) = tmp_path.glob("*.npy")
    half = np.load(path)
    half[3:] = np.nan  # as a stopped run leaves it
    np.save(path, half)
    calls, was = [], meshes.place_batch
    monkeypatch.setattr(meshes, "place_batch", lambda *a: calls.append(1) or was(*a))
    again = references.reference_log_probs(LM, base, rows, tmp_path, ONE, 4)
    np.testing.assert_allclose(again, whole, rtol=1e-6)
    assert len(calls) == 2  # five rows are left, four a call
    references.reference_log_probs(LM, base, rows, tmp_path, ONE, 4)
    assert len(calls) == 2
    bad = jax.tree.map(np.copy, base)
    bad["backbone"]["embed"]["table"][:] = np.nan
    with pytest.raises(ReferenceFailed, match="row 0"):
        references.reference_log_probs(LM, bad, rows, tmp_path, ONE, 4)
    assert len(list(tmp_path.glob("*.npy"))) == 2  # other weights, another file


# ------------------------------------------------------------------------------------------------- tenants


def test_a_tenants_p_moves_alone():
    """Two steps on tenants 0 and 2: their p move, the others' and all else stay, and the margin grows."""
    lm = TenantLM(tiny.LM)
    p_UE = np.random.default_rng(5).normal(size=(4, tiny.D_P)).astype(np.float32)
    whole = {**tiny.params(), "profile": {"p": jnp.asarray(p_UE)}, "start": jnp.asarray(p_UE)}
    one, other = (tiny.turns([0, 2, 0, 2], seed) for seed in (0, 1))
    strip = lambda t: Turns(one.question, t.answer, one.tenant_B)
    rows = Pairs(strip(one), strip(other))
    trained, frozen = partition.split(whole, "profile/p")
    by_row = {"profile/p": RowAdam(ids=lambda batch: batch.chosen.tenant_B)}
    optim = optimizer.make(OptConfig(lr=0.03, schedule="constant", clip=0.0), 9)
    state = init_state(ONE, trained, optim, tables=by_row)
    step = make_step(*prefer(lm, PreferenceLoss(), "switched"), optim, state, tables=by_row)
    margins = []
    for _ in range(3):
        state, metrics = step(state, frozen, rows, jax.random.key(0))
        margins.append(metrics.fetch()["margin"])
    assert abs(margins[0]) < 1e-5 < margins[1] and margins[2] > margins[1]
    moved = np.abs(np.asarray(state.params["profile"]["p"]) - p_UE).max(1)
    assert (moved[[0, 2]] > 0.01).all() and (moved[[1, 3]] == 0).all()


# --------------------------------------------------------------------------------------------------- the stage


def preferring(folder, rows=48):
    """People who like answers that end kindly, whatever was asked."""
    path = folder / "pairs.jsonl"
    lines = []
    for i in range(rows):
        ask, word = f"do you have {i} blue boats", "thanks" if i % 2 else "gladly"
        lines.append(
            {
                "prompt": ask,
                "chosen": f"yes {word}",
                "rejected": f"no {i % 5}",
                "group": f"g{i % 2}",
            }
        )
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model's folder and its data."""
    folder = tmp_path_factory.mktemp("prefer")
    data = preferring(folder)
    texts = [
        " ".join(json.loads(line).values())
        for line in (folder / "pairs.jsonl").read_text().splitlines()
    ]
    tok = train_tokenizer(texts, 300)
    cfg = dataclasses.replace(tiny.DECODER, vocab=300)
    ids = jnp.zeros((1, 2), jnp.int32)
    params = tiny.random_like(Decoder(cfg).init, jax.random.key(0), ids)["params"]
    hub.save(folder / "model", cfg, jax.tree.map(lambda x: x * 0.3, params))
    tok.save(folder / "model" / "tokenizer.json")
    return folder / "model", data


def config(base, out, **changes):
    given = {
        "base": str(base[0]), "data": (base[1],), "hold_out_every": 5, "length": 48, "rows": 8,
        "delta": SPEC, "opt": OptConfig(lr=0.03, schedule="constant"), "out": str(out),
        "loop": LoopConfig(steps=8, eval_every=4, save_every=4, monitor="held_accuracy", mode="max", progress=False),
    }  # fmt: skip
    return stage.PreferConfig(**(given | changes))


@pytest.fixture
def one_device(monkeypatch):
    """The stage runs on one device: it compiles faster."""
    was = meshes.make
    monkeypatch.setattr(meshes, "make", lambda config, _=None: was(config, jax.devices()[:1]))


@pytest.mark.slow
def test_the_stage_learns_and_resumes(base, tmp_path, one_device):
    told = stage.main(config(base, tmp_path / "a"))
    assert told["held_accuracy"] == 1.0 and told["held_margin"] > 0.02
    groups = json.loads((tmp_path / "a" / "held.json").read_text())
    assert set(groups["after"]) == {"g0", "g1"} and groups["before"]["g0"]["margin"] == 0
    tuned = load_tuned(tmp_path / "a" / "adapter")
    assert "delta" in tuned.tree and "start" not in tuned.tree
    # as if the run had been stopped after its fourth step
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "8")
    stage.main(config(base, tmp_path / "b"))
    same = [checkpoint.load_params(tmp_path / run / "adapter") for run in "ab"]
    jax.tree.map(np.testing.assert_array_equal, *same)


@pytest.mark.slow
def test_kto_from_an_adapter_with_buckets_and_a_judge(base, tmp_path, one_device):
    first = tmp_path / "a"
    judge = AnswerJudgeConfig(
        "rule", threshold=0.0, words=(1, 9), required=("thanks", "gladly"), copying=False
    )
    cfg = config(base, first, judge=judge, buckets=(24,), loss=PreferenceLoss("kto", 0.3), accum=2)
    assert stage.main(cfg)["held_accuracy"] == 1.0
    assert len((first / "judged.jsonl").read_text().splitlines()) == 39
    on = config(base, tmp_path / "b", adapter=str(first / "adapter"), reference="switched")
    stage.main(dataclasses.replace(on, loop=dataclasses.replace(on.loop, steps=4)))
    before = json.loads((tmp_path / "b" / "held.json").read_text())["before"]["g1"]
    after = json.loads((first / "held.json").read_text())["after"]["g1"]
    assert (
        before["margin"] == 0 < after["margin"]
    )  # the earlier adapter is the reference, not the base


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "full", "delta": DeltaConfig(), "reference": "switched"}, "switched off"),
        ({"method": "full", "delta": DeltaConfig(), "quantise": "nf4"}, "no gradient"),
        (
            {"personal": "x", "adapter": "y", "data": (), "tenants": ("world:held:5",)},
            "leave them out",
        ),
        ({"personal": "x"}, "own preferences"),
        ({"hold_out_every": 1000}, "hold_out_every"),
        ({"length": 3}, "no row is left"),
    ],
)
def test_bad_settings(changes, said, base, tmp_path, one_device):
    with pytest.raises(stage.RunError, match=said):
        stage.main(config(base, tmp_path, **changes))
