"""States of a frozen backbone that were kept give what computing them gives, in every stage that reads them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec.data.feature_store import FeatureConfig, FeatureError
from jaxrec.data.turns import TurnRows
from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.frozen_states import keep_states, question_states, top_row
from jaxrec.models.personal.inside import InsideError, joined
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Tokens

SPEC = DeltaConfig(norm=True, lora_rank=2, lora_sites="q|up")
INSIDE = PersonalLM(
    Decoder(dataclasses.replace(tiny.DECODER, cuts=(1,))),
    dataclasses.replace(tiny.PERSONAL, person="backbone", inside=SPEC, depths=(1,)),
)


def rows_of(batch) -> TurnRows:
    as_rows = lambda tokens: {
        name: np.asarray(getattr(tokens, name)) for name in ("ids_BL", "mask_BL", "loss_BL")
    }
    return TurnRows(as_rows(batch.question), as_rows(batch.answer), batch.tenant_B, batch.tenant_B)


@pytest.mark.parametrize("inside", [False, True], ids=["head", "backbone"])
def test_kept_states_equal_computed_ones(inside, tmp_path):
    lm, batch = (INSIDE if inside else tiny.LM), tiny.turns([0, 1, 2])
    backbone = tiny.random_like(lm.backbone.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    params = {
        "backbone": backbone["params"],
        **tiny.random_like(lm.init, jax.random.key(0), seed=3),
    }
    cfg = FeatureConfig(str(tmp_path), "float32", shard=2, rows=2)
    states = question_states(lm, params, rows_of(batch), cfg, "rows")

    @tiny.jit
    def told(params, batch, states_BLD, p_BE):
        def nats(p_BE, states_BLD):
            delta = lm.personal(params, p_BE)
            context = lm.read(params, batch.question, states_BLD)
            return -lm.log_probs(params, context, batch.answer, delta)[0].sum()

        grad = jax.value_and_grad(nats)
        return grad(p_BE, None), grad(p_BE, states_BLD)

    p_BE = np.random.default_rng(1).normal(size=(3, tiny.D_P)).astype(np.float32)
    computed, kept = told(params, batch, states[0:3], p_BE)
    np.testing.assert_allclose(kept[0], computed[0], rtol=1e-5)
    np.testing.assert_allclose(kept[1], computed[1], rtol=1e-3, atol=1e-5)


def test_padding_anywhere_is_not_computed_and_weights_are_part_of_the_key(tmp_path):
    rng, model = np.random.default_rng(0), tiny.LM.backbone
    rows = jax.tree.map(np.asarray, joined(tiny.tokens(rng, 3, 6), tiny.tokens(rng, 3, 8)))
    run = lambda params, tokens: top_row(model, 2, params, tokens)
    cfg = FeatureConfig(str(tmp_path), "float32", shard=3, rows=2)
    keep = lambda seed: keep_states(run, tiny.backbone(seed), rows, cfg, layers="2", what="rows")
    whole = np.asarray(tiny.jit(run)(tiny.backbone(), Tokens(rows.ids_BL, rows.mask_BL)))
    kept = keep(0)[0:3]
    np.testing.assert_allclose(kept[rows.mask_BL], whole[rows.mask_BL], rtol=2e-4, atol=2e-5)
    assert not kept[~rows.mask_BL].any()
    assert keep(0).folder != keep(1).folder


def test_a_person_at_the_entrance_has_no_states_to_keep(tmp_path):
    cfg = dataclasses.replace(INSIDE.cfg, inside=dataclasses.replace(SPEC, embed=True))
    lm = PersonalLM(INSIDE.backbone, cfg)
    with pytest.raises(InsideError, match=r"inside\.embed"):
        question_states(lm, {}, rows_of(tiny.turns([0])), FeatureConfig(str(tmp_path)), "rows")


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(FeatureError, match="one process"):
        keep_states(
            lambda *_: None, {}, tiny.tokens(np.random.default_rng(0), 1, 2),
            FeatureConfig(str(tmp_path)), layers="", what="",
        )  # fmt: skip
