"""The algebra of deltas: identities that hold whatever the model is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec import delta as deltas
from jaxrec.delta import DeltaConfig, Sites, StackSites
from jaxrec.structs import Delta, LayerDelta, OuterDelta

D, F, V = 8, 12, 50


def _stack(n_layers):
    return StackSites(
        n_layers=n_layers,
        lora={"q": (D, D), "v": (D, 4), "down": (F, D)},
        adapter={"attn": D, "mlp": D},
        prefix={"attn": (2, 1, 4)},
        norm={"attn_norm": D, "mlp_norm": D},
        scale={"k": 4, "v": 4, "down": D, "hidden": F},
        attn_bias={"attn": 2},
    )


SITES = Sites({"stack_0": _stack(1), "stack_1": _stack(2)}, d_model=D, vocab=V)
EVERY = DeltaConfig(
    lora_rank=2,
    adapter_size=3,
    prefix_length=2,
    norm=True,
    scale=True,
    scale_sites="k|v",
    attn_bias=True,
    embed=True,
    head_rank=2,
)


def _random(cfg, batch=1, seed=0, sites=SITES):
    rng = np.random.default_rng(seed)
    normal = lambda x: rng.normal(size=x.shape).astype(np.float32)
    return jax.tree.map(normal, deltas.shapes(sites, cfg, batch))


def test_take_and_bank_are_inverse():
    rows = [_random(EVERY, seed=s) for s in range(3)]
    bank = deltas.bank(rows)
    assert deltas.batch_size(bank) == 3
    again = deltas.take(bank, jnp.array([2, 0, 2]))
    jax.tree.map(np.testing.assert_array_equal, deltas.take(again, jnp.array([1])), rows[0])
    jax.tree.map(np.testing.assert_array_equal, deltas.take(again, jnp.array([0])), rows[2])


def test_bank_refuses_mixed_layouts():
    with pytest.raises(ValueError, match="layouts"):
        deltas.bank([_random(EVERY), _random(DeltaConfig(lora_rank=2))])


def test_count_is_of_one_row():
    spec = DeltaConfig(lora_rank=2, lora_sites="q|v")
    per_layer = 2 * (D + D) + 2 * (D + 4) + 2  # a, b and the scales
    assert deltas.count(deltas.zeros(SITES, spec, batch=5)) == 3 * per_layer
    assert deltas.size_bytes(deltas.zeros(SITES, spec, batch=5)) == 4 * 3 * per_layer


def test_scale_by_zero_leaves_no_change():
    scaled = deltas.scale(_random(EVERY), 0.0)
    stack = scaled.stacks["stack_1"]
    for change in (
        stack.lora["q"].b_NBRF,
        stack.adapter["mlp"].up_NBAD,
        stack.prefix["attn"].gate_NBH,
        stack.norm["attn_norm"].gamma_NBD,
        stack.scale["k"],
        stack.attn_bias["attn"].distance_NBHX,
        scaled.outer.embed_BD,
        scaled.outer.head.b_NBRF,
    ):
        assert not change.any()


def test_scale_refuses_a_soft_prompt():
    with pytest.raises(ValueError, match="soft prompt"):
        deltas.scale(_random(DeltaConfig(prompt_length=2)), 0.5)


def _effective(lora):
    return jnp.einsum("nbdr,nbrf,nb->nbdf", lora.a_NBDR, lora.b_NBRF, lora.scale_NB)


def test_added_loras_are_the_sum_of_their_matrices():
    a, b = _random(DeltaConfig(lora_rank=2)), _random(DeltaConfig(lora_rank=3), seed=1)
    both = deltas.add(a, b)
    for stack in SITES.stacks:
        for site in both.stacks[stack].lora:
            np.testing.assert_allclose(
                _effective(both.stacks[stack].lora[site]),
                _effective(a.stacks[stack].lora[site]) + _effective(b.stacks[stack].lora[site]),
                atol=1e-5,
            )


def test_added_norms_and_scales_compose():
    a, b = (
        _random(DeltaConfig(norm=True, scale=True, scale_sites="k")),
        _random(DeltaConfig(norm=True, scale=True, scale_sites="k"), seed=1),
    )
    both = deltas.add(a, b).stacks["stack_0"]
    x = jax.random.normal(jax.random.key(2), (1, 1, D))
    film = lambda x, f: x * (1 + f.gamma_NBD) + f.beta_NBD
    first, second = (s.stacks["stack_0"] for s in (a, b))
    np.testing.assert_allclose(
        film(x, both.norm["mlp_norm"]),
        film(film(x, first.norm["mlp_norm"]), second.norm["mlp_norm"]),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        1 + both.scale["k"], (1 + first.scale["k"]) * (1 + second.scale["k"]), rtol=1e-5
    )


def test_two_adapters_have_no_sum():
    a = _random(DeltaConfig(adapter_size=2))
    with pytest.raises(ValueError, match="no sum"):
        deltas.add(a, a)


def test_merge_folds_the_matrix_in():
    delta = _random(DeltaConfig(lora_rank=2, lora_sites="q"))
    kernel = {n: jnp.ones((s.n_layers, D, D)) for n, s in SITES.stacks.items()}
    params = {n: {"attn": {"q": {"kernel": k}}} for n, k in kernel.items()}
    merged = deltas.merge_params(params, delta, lambda site: ("attn", site))
    for name in SITES.stacks:
        np.testing.assert_allclose(
            merged[name]["attn"]["q"]["kernel"],
            1 + _effective(delta.stacks[name].lora["q"])[:, 0],
            rtol=1e-5,
        )


def test_merge_refuses_several_tenants_and_other_kinds():
    with pytest.raises(ValueError, match="one tenant at a time"):
        deltas.merge(
            jnp.ones((1, D, D)),
            _random(DeltaConfig(lora_rank=2), batch=2).stacks["stack_0"].lora["q"],
        )
    with pytest.raises(ValueError, match="only LoRA"):
        deltas.merge_params({}, _random(EVERY), lambda s: (s,))


def test_restack_keeps_every_layer():
    delta = _random(EVERY)
    one = deltas.restack(delta, [1, 2], [3])
    assert list(one.stacks) == ["stack_0"]
    back = deltas.restack(one, [3], [1, 2])
    jax.tree.map(np.testing.assert_array_equal, back, delta)


def test_check_accepts_its_own_and_names_what_is_wrong():
    deltas.check(_random(EVERY), SITES)
    layer = _random(EVERY).stacks["stack_0"]
    misspelt = layer.replace(lora={"qq": layer.lora["q"]})
    with pytest.raises(ValueError, match="no lora site 'qq'"):
        deltas.check(Delta({"stack_0": misspelt}, OuterDelta()), SITES)
    with pytest.raises(ValueError, match="no stack 'stack_7'"):
        deltas.check(Delta({"stack_7": layer}, OuterDelta()), SITES)
    with pytest.raises(ValueError, match="made for 1 layers, the stack has 2"):
        deltas.check(Delta({"stack_1": layer}, OuterDelta()), SITES)
    wrong = layer.replace(lora={"q": layer.lora["v"]})
    with pytest.raises(ValueError, match=r"stack_0 lora q: sized \(8, 4\), the model has \(8, 8\)"):
        deltas.check(Delta({"stack_0": wrong}, OuterDelta()), SITES)


def test_methods_have_names():
    for name, spec in deltas.METHODS.items():
        assert deltas.method(name) is spec
        assert spec.empty == (name == "full")
    assert deltas.method("ia3").scale_sites == "k|v|hidden"
    with pytest.raises(deltas.DeltaError, match="no tuning method 'dorra'; did you mean 'dora'"):
        deltas.method("dorra")
    with pytest.raises(deltas.DeltaError, match="there are full, lora"):
        deltas.method("zzz")


def test_rank_stabilised_scales_and_a_prefix_without_a_gate():
    spec = DeltaConfig(
        lora_rank=4, lora_alpha=6.0, lora_rs=True, lora_sites="q", head_rank=9, prefix_length=2,
        prefix_gate=False, stacks="stack_1",
    )  # fmt: skip
    delta = jax.jit(lambda key: deltas.init(key, SITES, spec))(jax.random.key(0))
    np.testing.assert_allclose(delta.stacks["stack_1"].lora["q"].scale_NB, 3.0)
    np.testing.assert_allclose(delta.outer.head.scale_NB, 2.0)
    assert DeltaConfig(lora_rank=4, lora_alpha=6.0).scaling(4) == 1.5
    prefix = delta.stacks["stack_1"].prefix["attn"]
    assert prefix.gate_NBH is None and prefix.k_NBPGK.any()
    deltas.check(delta, SITES)
    with pytest.raises(ValueError, match="prefix_gate=True"):
        deltas.scale(delta, 0.5)


def test_merge_scales_what_a_matrix_reads_or_gives():
    delta = _random(
        DeltaConfig(lora_rank=2, lora_sites="down", scale=True, scale_sites="down|hidden")
    )
    x, w, b = (np.random.default_rng(i).normal(size=s) for i, s in enumerate([(7, F), (F, D), D]))
    params = {
        n: {"down": {"kernel": jnp.array([w] * s.n_layers), "bias": jnp.array([b] * s.n_layers)}}
        for n, s in SITES.stacks.items()
    }
    merged = deltas.merge_params(params, delta, lambda site: (site,))
    for name, stack in delta.stacks.items():
        lora, reads, gives = stack.lora["down"], stack.scale["hidden"], stack.scale["down"]
        changed = w + np.asarray(_effective(lora))[-1, 0]
        expected = ((x * (1 + reads[-1, 0])) @ changed + b) * (1 + gives[-1, 0])
        own = merged[name]["down"]
        kernel, bias = np.asarray(own["kernel"][-1]), np.asarray(own["bias"][-1])
        np.testing.assert_allclose(x @ kernel + bias, expected, rtol=2e-4, atol=1e-4)


def test_merge_takes_the_head_unless_it_is_tied():
    delta = _random(DeltaConfig(head_rank=2))
    kernel = jnp.ones((D, V))
    merged = deltas.merge_params({"head": {"kernel": kernel}}, delta, lambda site: (site,))
    head = jax.tree.map(lambda x: x[None], delta.outer.head)
    np.testing.assert_allclose(merged["head"]["kernel"], 1 + _effective(head)[0, 0], rtol=1e-5)
    with pytest.raises(ValueError, match="tied"):
        deltas.merge_params({}, delta, lambda site: (site,))


def test_a_spec_that_asks_for_nothing_makes_no_delta():
    assert DeltaConfig().empty and not DeltaConfig(embed=True).empty
    with pytest.raises(ValueError, match="names no kind of change"):
        deltas.shapes(SITES, DeltaConfig())
    with pytest.raises(ValueError, match="must not be negative"):
        DeltaConfig(lora_rank=-1)


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="matches no LoRA site"):
        deltas.shapes(SITES, DeltaConfig(lora_rank=2, lora_sites="query"))
    with pytest.raises(ValueError, match="matches no stack"):
        deltas.shapes(SITES, DeltaConfig(lora_rank=2, stacks="top"))


def test_sites_are_hashable():
    assert hash(SITES) == hash(Sites(dict(SITES.stacks), D, V))


def test_by_layer_gives_the_layer_itself():
    layer = LayerDelta(scale={"k": jnp.ones((2, 1, 4))})
    xs, make = layer.by_layer()
    assert make(xs) is layer
