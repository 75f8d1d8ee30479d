"""A personal model's folder: what is loaded is what was saved, and another backbone is refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny_models
import tiny_personal as tiny

from jaxrec import checkpoint, config, hub, mesh, quant
from jaxrec import delta as deltas
from jaxrec.config import RunError
from jaxrec.data.text import train_tokenizer
from jaxrec.models.language.model_folder import BackboneMismatch, base_hash, chat_of
from jaxrec.models.language.tuned_folder import save_tuned
from jaxrec.models.personal.personal_folder import (
    cut_for_person,
    load_backbone,
    load_lfe,
    load_personal,
    load_teacher,
    save_personal,
)
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.decoder import Decoder
from jaxrec.nn.stack import recut

CFG = dataclasses.replace(tiny.DECODER, vocab=290, cuts=(1,))
LORA = deltas.DeltaConfig(lora_rank=2, lora_sites="q", stacks="stack_1")


@pytest.fixture
def devices():
    return mesh.make(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    ids = np.zeros((1, 2), np.int32)
    weights = tiny.random_like(lambda: Decoder(CFG).init(jax.random.key(0), jax.numpy.asarray(ids)))
    hub.save(folder / "backbone", CFG, weights["params"])
    words = [
        f"We open at {i}, the {a} mill is {b} us." for i in range(9) for a in "xyz" for b in "uv"
    ]
    train_tokenizer(words, 290).save(folder / "backbone" / "tokenizer.json")
    _, loaded = hub.load(folder / "backbone", cuts=CFG.cuts)
    facts = {
        "backbone": str(folder / "backbone"),
        "backbone_hash": checkpoint.fingerprint(loaded),
        "lfe": config.to_dict(tiny.PERSONAL.lfe),
        "cuts": CFG.cuts,
        "lora": config.to_dict(LORA),
    }
    rng = np.random.default_rng(0)
    delta = deltas.shapes(Decoder.sites(CFG), LORA)
    delta = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), delta)
    parts = {**tiny.params(), "profile": {"p": np.eye(2, tiny.D_P, dtype=np.float32)}}
    own = {**{n: p for n, p in parts.items() if n != "backbone"}, "lfe_delta": delta}
    checkpoint.save_params(folder / "lfe", {n: own[n] for n in ("lfe", "lfe_delta")}, facts)
    lm = PersonalLM(Decoder(CFG), tiny.PERSONAL)
    save_personal(folder / "personal", lm, tiny.ENCODER, own, ["a", "b"], facts)
    return folder, own, facts


def test_a_personal_model_comes_back_as_it_was(saved, devices):
    folder, own, _ = saved
    model = load_personal(folder / "personal", devices)
    assert (model.lm.cfg, model.encoder.cfg) == (tiny.PERSONAL, tiny.ENCODER.cfg)
    assert model.lm.backbone.cfg.cuts == (1,) and model.tenants == ("a", "b")
    loaded = {name: part for name, part in model.params.items() if name != "backbone"}
    jax.tree.map(np.testing.assert_array_equal, loaded, own)


def test_an_lfe_brings_its_backbone_and_its_lora(saved, devices):
    folder, _, facts = saved
    backbone, lfe, params, chat, told = load_lfe(folder / "lfe", devices)
    assert lfe == tiny.PERSONAL.lfe and chat.size == 290
    assert checkpoint.fingerprint(params["backbone"]) == facts["backbone_hash"]
    assert told["backbone"] == facts["backbone"]
    deltas.check(params["lfe_delta"], Decoder.sites(backbone.cfg))
    lm = PersonalLM(backbone, tiny.PERSONAL)
    row = tiny.tokens(np.random.default_rng(0), 1, 4).replace(loss_BL=None)
    z_of = tiny.jit(lambda params, row: lm.encode(params, row).z_cls_BD)
    without = {name: part for name, part in params.items() if name != "lfe_delta"}
    assert (
        np.abs(np.asarray(z_of(params, row)) - np.asarray(z_of(without, row))).max() > 1e-3
    )  # the LoRA is in use


def test_another_backbone_is_refused(saved, devices, tmp_path):
    _, own, facts = saved
    told = {**facts, "backbone_hash": "0" * 16}
    checkpoint.save_params(tmp_path / "lfe", {"lfe": own["lfe"]}, told)
    with pytest.raises(BackboneMismatch, match="hash 0000000000000000, but"):
        load_lfe(tmp_path / "lfe", devices)
    save_personal(tmp_path / "own", tiny.LM, tiny.ENCODER, {"lfe": own["lfe"]}, [], told)
    with pytest.raises(BackboneMismatch, match="hash 0000000000000000, but"):
        load_personal(tmp_path / "own", devices)


def test_a_teacher_shares_the_tokenizer_and_may_have_more_rows(saved, devices, tmp_path):
    folder, _, _ = saved
    chat = chat_of(folder / "backbone")
    module, params = load_teacher(str(folder / "backbone"), Decoder(CFG), devices, chat)
    assert module.cfg.vocab == len(params["embed"]["table"]) == 290
    fewer = Decoder(dataclasses.replace(CFG, vocab=285))
    module, cut = load_teacher(str(folder / "backbone"), fewer, devices, chat)
    assert module.cfg.vocab == len(cut["embed"]["table"]) == 285
    more = Decoder(dataclasses.replace(CFG, vocab=300))
    with pytest.raises(RunError, match=r"\(290 tokens\) splits texts in another way .* \(300\)"):
        load_teacher(str(folder / "backbone"), more, devices, chat)
    tiny_models.tokenizer("phi2", tmp_path)
    with pytest.raises(RunError, match="a teacher must share the backbone's tokenizer"):
        load_teacher(str(folder / "backbone"), Decoder(CFG), devices, chat_of(tmp_path))


def test_a_folder_finds_its_backbone_wherever_both_were_moved(
    saved, devices, tmp_path, monkeypatch
):
    folder, own, facts = saved
    there = tmp_path / "here"
    shutil.copytree(folder / "backbone", there / "base")
    monkeypatch.chdir(there)
    told = {**facts, "backbone": "base", "base_hash": base_hash("base")}
    save_personal(
        "out/model", PersonalLM(Decoder(CFG), tiny.PERSONAL), tiny.ENCODER, own, ["a"], told
    )
    there.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert load_personal("moved/out/model", devices).tenants == ("a",)


def test_an_adapter_is_a_backbone_too(saved, devices, tmp_path):
    folder, own, facts = saved
    base = str(folder / "backbone")
    save_tuned(tmp_path / "adapter", {"delta": own["lfe_delta"]}, cfg=CFG, base=base, spec=LORA)
    plain, tuned = (
        load_backbone(base, devices),
        load_backbone(str(tmp_path / "adapter"), devices, CFG.cuts),
    )
    assert tuned.hashed.startswith(f"{plain.hashed}+")
    q = lambda params: np.asarray(params["stack_1"]["attn"]["q"]["kernel"])
    assert np.abs(q(tuned.params) - q(load_backbone(base, devices, CFG.cuts).params)).max() > 1e-3
    told = {**facts, "backbone": str(tmp_path / "adapter"), "base_hash": tuned.hashed}
    checkpoint.save_params(tmp_path / "lfe", {"lfe": own["lfe"]}, {**told, "lora": {}})
    loaded = load_lfe(tmp_path / "lfe", devices)[2]["backbone"]
    np.testing.assert_array_equal(q(loaded), q(tuned.params))
    with pytest.raises(RunError, match="load it without quantise"):
        load_lfe(tmp_path / "lfe", devices, quantise="int8")


def test_a_quantised_backbone_is_recognised_by_its_file(saved, devices, tmp_path):
    folder, own, facts = saved
    checkpoint.save_params(tmp_path / "old", {"lfe": own["lfe"]}, facts)
    with pytest.raises(RunError, match="whole weights: load it without quantise"):
        load_lfe(tmp_path / "old", devices, quantise="int8")
    told = {**facts, "base_hash": base_hash(folder / "backbone")}
    checkpoint.save_params(tmp_path / "new", {"lfe": own["lfe"]}, told)
    params = load_lfe(tmp_path / "new", devices, quantise="int8")[2]
    lm = PersonalLM(Decoder(CFG), tiny.PERSONAL)
    row = tiny.tokens(np.random.default_rng(0), 1, 4).replace(loss_BL=None)
    z = tiny.jit(lambda params, row: lm.encode(params, row).z_cls_BD)(params, row)
    assert np.isfinite(np.asarray(z)).all()


def test_head_and_backbone_come_back_in_eight_bits(saved, devices, tmp_path):
    """Answers stay close; what has no head of its own says so."""
    folder, own, facts = saved
    told = {**facts, "base_hash": base_hash(folder / "backbone")}
    lm = PersonalLM(Decoder(CFG), tiny.PERSONAL)
    save_personal(tmp_path / "own", lm, tiny.ENCODER, own, ["a", "b"], told)
    plain = load_personal(tmp_path / "own", devices)
    small = load_personal(tmp_path / "own", devices, quantise="int8", head="int8")
    assert (
        quant.kinds_in(small.params["head"]) == quant.kinds_in(small.params["backbone"]) == {"int8"}
    )
    batch = tiny.turns([0, 1])

    @tiny.jit
    def logits(params, batch):
        delta = lm.personal(params, params["profile"]["p"])
        return lm.answer(params, lm.encode(params, batch.question), batch.answer, delta).logits

    want, got = (np.asarray(logits(model.params, batch)) for model in (plain, small))
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()
    with pytest.raises(quant.QuantError, match="'int3' is not known"):
        load_personal(tmp_path / "own", devices, head="int3")


def test_a_backbone_cut_for_a_person_says_the_same_and_is_found_again(saved, devices, tmp_path):
    """Another cut is the same model: its Z with the retrofit's LoRA too; the folder remembers the cut."""
    folder, own, facts = saved
    told = {**facts, "base_hash": base_hash(folder / "backbone")}
    checkpoint.save_params(tmp_path / "lfe", {n: own[n] for n in ("lfe", "lfe_delta")}, told)
    backbone, _, params, _, facts = load_lfe(tmp_path / "lfe", devices)
    whole = backbone.clone(cfg=dataclasses.replace(CFG, cuts=()))
    both = deltas.restack(
        deltas.add(params["lfe_delta"], params["lfe_delta"].replace(
            stacks={"stack_0": params["lfe_delta"].stacks["stack_1"]})), [1, 1], [2]
    )  # fmt: skip
    uncut = {**params, "backbone": recut(params["backbone"], CFG, whole.cfg), "lfe_delta": both}
    facts = {**facts, "cuts": [], "lora": {**facts["lora"], "stacks": "stack_0"}}
    cut, parts, facts = cut_for_person(whole, uncut, facts, (1,))
    assert cut.cfg.cuts == (1,) and facts["cuts"] == [1]
    assert facts["lora"]["stacks"] == "stack_0|stack_1"
    row = tiny.tokens(np.random.default_rng(0), 1, 4).replace(loss_BL=None)
    z_of = lambda module: tiny.jit(PersonalLM(module, tiny.PERSONAL).encode)
    before, after = z_of(whole)(uncut, row), z_of(cut)(parts, row)
    np.testing.assert_allclose(after.z_cls_BD, before.z_cls_BD, atol=1e-5)

    cfg = dataclasses.replace(tiny.PERSONAL, person="backbone", depths=(1,))
    lm = PersonalLM(cut, cfg)
    new = {**tiny.random_like(lm.init, jax.random.key(0)), "lfe_delta": parts["lfe_delta"]}
    new["encoder"] = own["encoder"]
    save_personal(tmp_path / "inside", lm, tiny.ENCODER, new, ["a"], facts)
    model = load_personal(tmp_path / "inside", devices)
    assert model.lm.cfg == cfg and model.lm.backbone.cfg.cuts == (1,)
    jax.tree.map(np.testing.assert_array_equal, model.params["hypernet"], new["hypernet"])
    with pytest.raises(quant.QuantError, match="no head to quantise"):
        load_personal(tmp_path / "inside", devices, head="int8")
