"""The whole chain in one toy run, by the scripts' own `main`: pretrain, retrofit, universal, personalize, voices."""

import ast
import dataclasses
import functools
import json
import re
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrec import checkpoint, config, hub, log, mesh
from jaxrec.delta import DeltaConfig
from jaxrec.models.language.model_folder import base_hash
from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.models.personal.personal_folder import load_personal
from jaxrec.nn.decoder import DecoderConfig
from jaxrec.structs import Tokens
from jaxrec.training import step
from jaxrec.training.optimizer import OptConfig
from jaxrec.world import tenants as world

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("pretrain", "retrofit", "universal", "personalize")


def experiment(name: str, script: str, **changes):
    """The `config` of configs/NAME.py with fields replaced; `loop` changes are given as a dict."""
    module = import_module(script)
    kind = next(
        k for n, k in vars(module).items() if n.endswith("Config") and k.__module__ == script
    )
    cfg = config.read_file(kind, name)
    if "loop" in changes:
        quiet = {"progress": False, "log_every": 1, **changes["loop"]}
        changes["loop"] = dataclasses.replace(cfg.loop, **quiet)
    return dataclasses.replace(cfg, **changes)


@dataclasses.dataclass
class Ran:
    """What the toy run left behind."""

    out: Path
    told: dict
    steps: list
    saved: dict  # params that the universal stage handed to save_personal


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All stages once, on twenty generated tenants and the hand-written ones, over eight devices."""
    out = tmp_path_factory.mktemp("runs")
    quickly = jax.config.read(
        "jax_disable_most_optimizations"
    )  # compiling is what takes the time here
    with pytest.MonkeyPatch.context() as patch:
        jax.config.update("jax_disable_most_optimizations", True)
        plain, made, saved, told = world.generate, [], {}, {}
        small = functools.cache(lambda: plain(n=20))
        patch.setattr(world, "generate", small)
        make, save = step.make_step, import_module("jaxrec.train.universal").save_personal

        def remembered(*args, **named):
            made.append(make(*args, **named))
            return made[-1]

        def kept(folder, lm, encoder, params, *rest):
            saved.update(jax.device_get(params))
            save(folder, lm, encoder, params, *rest)

        patch.setattr(step, "make_step", remembered)
        patch.setattr(import_module("jaxrec.train.universal"), "save_personal", kept)
        for name, cfg in configs(out).items():
            script = name.removesuffix("_own")
            room = "eval" if name == "voices" else "train"
            told[name] = import_module(f"jaxrec.{room}.{script}").main(cfg)
        yield Ran(out, told, made, saved)
        jax.config.update("jax_disable_most_optimizations", quickly)


def configs(out: Path) -> dict:
    """The sample experiments, as small as they go."""
    model = DecoderConfig(
        vocab=400, d_model=32, layers=2, heads=2, groups=1, head_dim=16, d_ff=48, cuts=(1,),
        tied=True,
    )  # fmt: skip
    model_folder, lfe = str(out / "pretrain" / "model"), str(out / "retrofit" / "lfe")
    personal, profile = str(out / "universal" / "model"), str(out / "personalize" / "profile")
    held = [t.key for t in world.generate() if t.held_out]
    tenants = tuple(f"world:{key}" for key in ("kestrel_travel", *held))
    sizes = {"question": 12, "answer": 16, "rows": 8}
    universal = experiment("universal_sample", "jaxrec.train.universal")
    head = dataclasses.replace(universal.head, d_model=32, heads=2, groups=1, d_ff=48)
    encoder = dataclasses.replace(universal.encoder, width=16, queries=2, heads=2)
    onboard = {"model": personal, "tenants": tenants, "piece": 12, "examples": 4, **sizes}
    return {
        "pretrain": experiment(
            "backbone_sample", "jaxrec.train.pretrain", model=model, opt=OptConfig(lr=1e-2), length=48, rows=8,
            loop={"steps": 12, "eval_every": 6}, out=str(out / "pretrain"),
        ),
        "retrofit": experiment(
            "retrofit_sample", "jaxrec.train.retrofit", backbone=model_folder,
            lfe=LFEConfig(d_z=16, top_k=2),
            cuts=(1,), lora=DeltaConfig(lora_rank=2, stacks="stack_1"), context=12, length=16, rows=16, accum=2,
            loop={"steps": 4, "eval_every": 2}, out=str(out / "retrofit"),
        ),
        "universal": experiment(
            "universal_sample", "jaxrec.train.universal", lfe=lfe, head=head, encoder=encoder, d_p=8,
            hyper_width=8, piece=12, **sizes, loop={"steps": 4, "eval_every": 2},
            out=str(out / "universal"),
        ),
        "personalize": experiment(
            "personalize_sample", "jaxrec.train.personalize", **onboard, loop={"steps": 3},
            out=str(out / "personalize"),
        ),
        "personalize_own": experiment(
            "personalize_sample", "jaxrec.train.personalize", **onboard, loop={"steps": 2},
            own_delta=DeltaConfig(lora_rank=2, lora_sites="q|v"), out=str(out / "own"),
        ),
        "voices": experiment(
            "voices_sample", "jaxrec.eval.voices", profile=profile, dialogues=1, **sizes,
            own=str(out / "own" / "profile"), also=("retrieved",), out=str(out / "voices"),
        ),
    }  # fmt: skip


def test_pretraining_learns(ran):
    losses = [
        row["loss"] for row in log.read_metrics(ran.out / "pretrain" / "metrics.jsonl", "train")
    ]
    assert len(losses) == 12 and np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.3
    evals = log.read_metrics(ran.out / "pretrain" / "metrics.jsonl", "eval")
    assert evals[-1]["bits_per_byte"] < evals[0]["bits_per_byte"]
    assert ran.told["pretrain"]["bits_per_byte"] == evals[-1]["bits_per_byte"]


def test_every_stage_leaves_its_numbers_its_config_and_its_checkpoint(ran):
    for stage in (*STAGES, "own"):
        folder = ran.out / stage
        rows = log.read_metrics(folder / "metrics.jsonl", "train")
        assert np.isfinite([row["loss"] for row in rows]).all(), stage
        assert json.loads((folder / "config.json").read_text())["out"] == str(folder)
        assert list((folder / "checkpoints").glob("[0-9]*")), stage


def test_every_stage_compiles_its_step_once(ran):
    assert [one._cache_size() for one in ran.steps] == [1] * 5


def test_the_backbone_is_a_hugging_face_folder(ran):
    folder = ran.out / "pretrain" / "model"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in folder.iterdir()
    }
    cfg, params = hub.load(folder)
    assert cfg.vocab == 400 and params["embed"]["table"].shape == (400, 32)


def test_the_retrofit_keeps_the_lfe_alone(ran):
    folder = ran.out / "retrofit" / "lfe"
    facts = checkpoint.load_facts(folder)
    assert facts["base_hash"] == base_hash(ran.out / "pretrain" / "model")
    assert set(checkpoint.load_params(folder)) == {"lfe", "lfe_delta"}


def test_a_saved_personal_model_is_the_one_that_was_trained(ran):
    devices = mesh.make()
    model = load_personal(ran.out / "universal" / "model", devices)
    assert set(model.params) == {
        "backbone",
        "lfe",
        "lfe_delta",
        "head",
        "hypernet",
        "encoder",
        "profile",
    }
    loaded = {name: part for name, part in model.params.items() if name != "backbone"}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(loaded), ran.saved)
    assert model.params["profile"]["p"].shape == (len(model.tenants), 8)

    @jax.jit
    def logits(params, question, answer, p_BE):
        z = model.lm.encode(params, question)
        return model.lm.answer(params, z, answer, model.lm.personal(params, p_BE)).logits

    rng = np.random.default_rng(0)
    row = lambda length: Tokens(
        rng.integers(16, 400, (2, length)).astype(np.int32), np.ones((2, length), bool)
    )
    asked, said, p_BE = row(6), row(5), rng.normal(size=(2, 8)).astype(np.float32)
    trained = mesh.place(devices, {**ran.saved, "backbone": model.params["backbone"]})
    np.testing.assert_allclose(
        logits(model.params, asked, said, p_BE), logits(trained, asked, said, p_BE), atol=1e-5
    )


def test_onboarding_moves_p_from_where_the_encoder_put_it(ran):
    folder = ran.out / "personalize" / "profile"
    facts, profile = checkpoint.load_facts(folder), checkpoint.load_params(folder)
    assert facts["tenants"] == ["kestrel_travel", *(t.key for t in world.generate() if t.held_out)]
    assert profile["p"].shape == profile["p_encoder"].shape == (5, 8)
    assert np.abs(profile["p"] - profile["p_encoder"]).max(1).min() > 1e-3
    own = checkpoint.load_params(ran.out / "own" / "profile")
    assert {x.shape[1] for x in jax.tree.leaves(own["delta"]["stacks"])} == {5}


def test_the_voices_are_compared_and_recorded(ran):
    record = json.loads((ran.out / "voices" / "results.json").read_text())
    rows = {(row["row"], row["tenants"]): row for row in record["rows"]}
    names = {
        "own_p_gradient",
        "own_p_encoder",
        "mean_p",
        "shuffled_p",
        "no_p",
        "own_lora",
        "own_p_retrieved_page",
        "own_lora_retrieved_page",
        "nearest",
        "right_answer",
    }
    assert {name for name, _ in rows} == names
    assert rows["right_answer", "generated"]["style"] == 1.0
    assert rows["right_answer", "generated"]["f1"] == 1.0
    assert all(np.isfinite(r["nll"]) for (name, _), r in rows.items() if name.endswith("_p"))
    assert {"versions", "hardware", "commit", "wall_s", "config", "seed"} <= set(record)


def test_vectors_are_not_compared_where_tenants_have_none(ran):
    cfg = dataclasses.replace(configs(ran.out)["voices"], profile=str(ran.out / "own" / "profile"))
    with pytest.raises(config.RunError, match="no p: onboard them without own_delta"):
        import_module("jaxrec.eval.voices").main(cfg)


def test_training_again_in_a_finished_folder_changes_nothing(ran):
    """A finished run that is started again resumes at its end."""
    before = checkpoint.load_params(ran.out / "personalize" / "profile")
    import_module("jaxrec.train.personalize").main(configs(ran.out)["personalize"])
    after = checkpoint.load_params(ran.out / "personalize" / "profile")
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("[!_]*.py")), ids=lambda p: p.stem)
def test_every_experiment_loads_as_what_its_command_takes(path):
    """The script that the docstring calls with this file defines the class of its `config`."""
    told = ast.get_docstring(ast.parse(path.read_text()))
    name = path.relative_to(ROOT).as_posix()
    command = re.findall(rf"python -m (\S+) {re.escape(name)}", told)
    assert command, "the docstring has no command for this file"
    in_bench = command[0].startswith("bench")
    written = import_module(
        ("" if in_bench else "jaxrec.") + name.removesuffix(".py").replace("/", ".")
    ).config
    where = type(written).__module__.removeprefix("jaxrec.")
    # eval.recommend picks the script by the class
    called = command[0].removeprefix("jaxrec.")
    assert where == called or (called, where[:15]) == ("eval.recommend", "eval.recommend_")
    assert config.load(type(written), [str(path)]) == written
