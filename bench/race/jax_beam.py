"""Beam search over semantic ids: the trie on the device and one program, against a trie of Python dicts.

Both ask the same nested decoder-only model about the same people: 12,000 items of three codes of 256, crowded as real
catalogues are, histories of eight items, 50 beams. The Python side gets each level's log-probabilities of all beams of
all people from one compiled call, as constrained generation with a callback does: what differs is who walks the trie.
"""

import heapq

from bench.race.worker import Work

PEOPLE, BEAMS, ITEMS, LENGTH = 128, 50, 12_000, 8
SIZES = (256, 256, 256)


def prepare(form: str = "nested") -> dict[str, Work]:
    """`work` (device) and `python`; the answer of both is the log-probabilities of each person's 50 items, sorted."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxrec.models.items import code_beam
    from jaxrec.models.items.code_layers import LayersConfig
    from jaxrec.models.items.generative_rec import CodeDecoder, CodeDecoderConfig

    rng = np.random.default_rng(0)
    crowd = (256 * rng.power(0.6, (3 * ITEMS, 3))).astype(np.int64)
    codes_IQ = rng.permutation(np.unique(crowd, axis=0))[:ITEMS]
    items_BL = rng.integers(0, len(codes_IQ), (PEOPLE, LENGTH))
    codes_BLQ, mask_BL = jnp.asarray(codes_IQ[items_BL]), jnp.ones(items_BL.shape, bool)
    layers = LayersConfig(init_std=0.1)
    model = CodeDecoder(CodeDecoderConfig(SIZES, form, layers))
    ones = jnp.ones(items_BL.shape, jnp.int32)
    init = jax.jit(lambda key: model.init(key, codes_BLQ[:1], codes_BLQ[:1], ones[:1], ones[:1]))
    params = init(jax.random.key(0))["params"]
    trie = code_beam.build(codes_IQ)
    apply = lambda params, method, *args: model.apply({"params": params}, *args, method=method)
    free = code_beam.free_slots(trie, BEAMS)

    @jax.jit
    def whole(params, codes_BLQ, mask_BL):
        begun = apply(params, "start", codes_BLQ, mask_BL, free)
        return code_beam.search(trie, *begun, lambda *args: apply(params, "extend", *args), BEAMS)

    log_p = lambda found: (found[0], jax.nn.log_softmax(found[1], axis=-1))
    start = jax.jit(lambda params, *args: log_p(apply(params, "start", *args, free)))
    extend = jax.jit(
        lambda params, memory, level, *args: log_p(apply(params, "extend", memory, level, *args)),
        static_argnums=2,
    )
    root = trie_of(codes_IQ.tolist())

    def in_python() -> np.ndarray:
        memory, log_p_BJC = start(params, codes_BLQ, mask_BL)
        beams = [[(0.0, root)] for _ in range(PEOPLE)]
        for level in range(len(SIZES)):
            told, grown = np.asarray(log_p_BJC), []
            for row, alive in enumerate(beams):
                options = (
                    (score + told[row, j, code], j, code, child)
                    for j, (score, node) in enumerate(alive)
                    for code, child in node.items()
                )
                grown.append(heapq.nlargest(BEAMS, options, key=lambda option: option[0]))
            beams = [[(score, child) for score, _, _, child in kept] for kept in grown]
            if level < len(SIZES) - 1:
                parent_BJ = np.array([[j for _, j, _, _ in kept] for kept in grown], np.int32)
                code_BJ = np.array([[code for _, _, code, _ in kept] for kept in grown], np.int32)
                memory, log_p_BJC = extend(params, memory, level, code_BJ, parent_BJ)
        return np.array([[score for score, _ in kept] for kept in beams])

    on_device = lambda: np.asarray(whole(params, codes_BLQ, mask_BL)[1])
    on_device(), in_python()
    return {
        "work": Work(on_device, on_device, {"jax": jax.__version__}),
        "python": Work(in_python, in_python),
    }


def trie_of(rows: list[list[int]]) -> dict:
    """Dicts in dicts, by code; {} at the leaves."""
    root: dict = {}
    for row in rows:
        node = root
        for code in row:
            node = node.setdefault(code, {})
    return root
