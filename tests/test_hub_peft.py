"""Adapters against HF PEFT, both ways: ours answer there as here, and theirs here as there."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec import hub
from jaxrec.delta import DeltaConfig
from jaxrec.nn.decoder import Decoder

torch = pytest.importorskip("torch", reason="parity with PEFT needs torch")
peft = pytest.importorskip("peft", reason="parity with PEFT needs peft")

from tests.test_parity import DECODERS, GEMMA3, TOLERANCE, saved  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

IDS = np.random.default_rng(0).integers(1, 61, (2, 6))
# A window that IDS and a prefix do not fill: beyond it peft's local layers forget the prefix.
GEMMA3 = (GEMMA3[0], GEMMA3[1] | {"sliding_window": 16})
CUTS = {"llama2": (1,), "qwen2": (), "qwen2_yarn": (), "phi2": (), "gemma3": (3,)}
NAMES = {"llama2": ["q_proj", "gate_proj", "down_proj"], "phi2": ["k_proj", "dense", "fc1", "fc2"]}
NAMES |= {"qwen2": ["q_proj", "v_proj", "o_proj", "up_proj"]}
NAMES |= {"gemma3": NAMES["llama2"]}
FED = {"llama2": "down_proj", "qwen2": "down_proj", "phi2": "fc2", "gemma3": "down_proj"}
OURS = {
    "lora": DeltaConfig(lora_rank=3, lora_alpha=6.0, lora_sites="q|o|up|down"),
    "rslora": DeltaConfig(lora_rank=3, lora_alpha=5.0, lora_rs=True),
    "dora": DeltaConfig(lora_rank=2, lora_dora=True, lora_sites="v|up|down"),
    "ia3": DeltaConfig(scale=True),
    "prefix": DeltaConfig(prefix_length=3, prefix_gate=False),
    "prompt": DeltaConfig(prompt_length=3),
}


def theirs(method, family):
    task = {"task_type": "CAUSAL_LM"}
    names = NAMES[family] if family in NAMES else []
    lora = functools.partial(peft.LoraConfig, **task, r=3, lora_alpha=7, target_modules=names)
    return {
        "lora": lambda: lora(
            rank_pattern={names[0]: 5},
            alpha_pattern={rf"layers\.1\..*{names[-1]}": 2},
            layers_to_transform=[1, 2],
        ),
        "rslora": lambda: lora(use_rslora=True),
        "dora": lambda: lora(use_dora=True),
        "ia3": lambda: peft.IA3Config(
            **task, target_modules=["k_proj", "v_proj", FED[family]], feedforward_modules=[FED[family]]
        ),
        "prefix": lambda: peft.PrefixTuningConfig(**task, num_virtual_tokens=3),
        "prompt": lambda: peft.PromptTuningConfig(**task, num_virtual_tokens=3),
    }[method]()  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """{family: (their model, our config, our params)}, made when first asked for."""

    @functools.cache
    def base(family):
        folder = tmp_path_factory.mktemp(family)
        model = saved(*(DECODERS | {"gemma3": GEMMA3})[family], folder)
        return model, *hub.load(folder, cuts=CUTS[family])

    return base


@functools.partial(jax.jit, static_argnums=0)
def logits(cfg, params, delta):
    return Decoder(cfg).apply({"params": params}, jnp.array(IDS), delta=delta).logits


def their_logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits[:, -IDS.shape[1] :].numpy()


def stirred(delta, spec):
    """A delta of this layout with every leaf but the scales away from the identity."""
    rng = np.random.default_rng(1)

    def leaf(path, x):
        name = getattr(path[-1], "name", "")
        if name.startswith("scale_NB"):
            return np.full(x.shape, spec.scaling(spec.lora_rank), np.float32)
        return rng.normal(scale=0.3, size=x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, delta)


CASES = [(family, method) for family in ("llama2", "qwen2", "phi2", "gemma3") for method in OURS]
CASES += [("qwen2_yarn", "prefix")]
QUICK = {  # every family and every method at least once; `make test-slow` runs the others
    ("llama2", "lora"), ("llama2", "prefix"), ("qwen2", "rslora"), ("qwen2", "prompt"), ("phi2", "dora"),
    ("phi2", "ia3"), ("phi2", "prefix"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "method"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CASES],
)
def test_adapters_answer_alike_in_both_directions(bases, tmp_path, family, method):
    model, cfg, params = bases(family)
    spec = OURS[method]
    delta = stirred(deltas.shapes(Decoder.sites(cfg), spec), spec)
    hub.save_peft(tmp_path / "ours", delta, spec, cfg, params=params, base="tiny")
    there = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "ours").eval()
    here = logits(cfg, params, delta)
    assert np.abs(here - their_logits(model)).max() > 0.05  # the adapter does something
    np.testing.assert_allclose(here, their_logits(there), atol=TOLERANCE)
    again, same = hub.load_peft(tmp_path / "ours", cfg, params, base="tiny")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), again, delta)
    shapes = lambda spec: deltas.shapes(Decoder.sites(cfg), spec)
    assert jax.tree.structure(shapes(same)) == jax.tree.structure(shapes(spec))

    made = peft.get_peft_model(copy.deepcopy(model), theirs(method, family)).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for x in made.parameters():
            if x.requires_grad:
                x.add_(0.3 * torch.randn(x.shape, generator=generator))
    made.save_pretrained(tmp_path / "theirs")
    delta, spec = hub.load_peft(tmp_path / "theirs", cfg, params)
    layout = jax.tree.map(lambda x: (x.shape, x.dtype), delta)
    assert layout == jax.tree.map(lambda x: (x.shape, x.dtype), shapes(spec))
    np.testing.assert_allclose(logits(cfg, params, delta), their_logits(made), atol=TOLERANCE)


def test_a_lora_on_the_output_head(bases, tmp_path):
    model, cfg, params = bases("llama2")
    names = ["v_proj", "lm_head"]
    made = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=names))
    with torch.no_grad():
        for x in made.parameters():
            x.add_(0.2 * x.requires_grad)
    made.eval().save_pretrained(tmp_path / "theirs")
    delta, spec = hub.load_peft(tmp_path / "theirs", cfg, params)
    assert spec.head_rank == 2 and spec.lora_sites == "v"
    np.testing.assert_allclose(logits(cfg, params, delta), their_logits(made), atol=TOLERANCE)
    hub.save_peft(tmp_path / "ours", delta, spec, cfg)
    there = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "ours").eval()
    np.testing.assert_allclose(their_logits(there), their_logits(made), atol=1e-6)


@pytest.mark.parametrize("family", [pytest.param("llama2", marks=pytest.mark.slow), "phi2"])
def test_merged_weights_are_a_plain_model_there(bases, tmp_path, family):
    _, cfg, params = bases(family)
    spec = DeltaConfig(lora_rank=2, lora_dora=family == "phi2", scale=True, lora_sites="q|o|down")
    delta = stirred(deltas.shapes(Decoder.sites(cfg), spec), spec)
    merged = deltas.merge_params(params, delta, Decoder.path_of)
    hub.save(tmp_path, cfg, merged)
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(logits(cfg, params, delta), their_logits(plain), atol=TOLERANCE)
