"""What a frozen backbone gives of texts, kept on disk: computed once, read by every epoch and every later run.

    token rows --frozen layers, once--> states [N, L, W] in a `FeatureStore` --rows of a batch--> the step

What the states depend on is the store's key: the weights, the token ids (so the tokenizer and the texts), and which
layers. Padding is not computed: rows of like length share a batch as wide as its longest text.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from jaxrec import checkpoint, files
from jaxrec.data.feature_store import FeatureConfig, FeatureError, FeatureStore, open_features
from jaxrec.data.turns import TurnRows
from jaxrec.models.personal.inside import half_read, joined
from jaxrec.models.personal.lfe import top_states
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.nn.decoder import Decoder
from jaxrec.structs import Tokens

_ROUNDED = 16  # widths of batches are multiples of it, so that few programs are compiled


def keep_states(
    run: Callable[[PyTree, Tokens], Array],
    params: PyTree,
    tokens: Tokens,
    cfg: FeatureConfig,
    *,
    layers: str,
    what: str,
    whose: Sequence[str] = (),
) -> FeatureStore:
    """The states of all rows, `cfg.rows` of them computed at a time where they are not on the disk yet.

    Args:
      run: (params, tokens [B, l]) -> [B, l, W]; a row's states may depend on that row's real tokens alone.
      params: all the weights that it reads.
      tokens: rows [N, L], padded anywhere; the states of padding are zeros.
      cfg: where states are kept.
      layers: which states these are, for the key.
      what: the texts are, for the line that is printed.
      whose: tenants whose texts they are.

    Raises FeatureError as the store does, and where several processes would write one array.
    """
    if jax.process_count() > 1:
        raise FeatureError(
            "features are written by one process: compute them by a run on one host, or keep none"
        )
    ids_NL, mask_NL = np.asarray(tokens.ids_BL), np.asarray(tokens.mask_BL)
    forward = jax.jit(run)
    row = jax.eval_shape(run, params, Tokens(ids_NL[:1], mask_NL[:1])).shape[1:]
    facts = {
        "weights": checkpoint.fingerprint(params),
        "tokens": files.content_hash(np.asarray(ids_NL, np.int32), mask_NL, digits=16),
        "layers": layers,
    }
    store = open_features(cfg, facts, (len(ids_NL), *row), whose)
    compute = lambda rows: _compact(forward, params, ids_NL[rows], mask_NL[rows], row[-1], cfg.rows)
    store.fill(compute, what)
    return store


def question_states(
    lm: PersonalLM,
    params: PyTree,
    rows: TurnRows,
    cfg: FeatureConfig,
    what: str,
    whose: Sequence[str] = (),
) -> FeatureStore | None:
    """`PersonalLM.frozen_states` of questions and answers, for `Turns.states_BLD`; None where nothing is kept.

    lm, params: the model. rows: of `turns.turn_rows`. cfg: where states are kept. what: the rows are, for a line.
    whose: the tenants.
    """
    if not cfg.folder:
        return None
    question, answer = Tokens(**rows.question), Tokens(**rows.answer)
    if not lm.inside:
        return piece_states(lm, params, question, cfg, what, whose)
    below = lm.below  # asked first: it knows why a model has none
    whole = jax.tree.map(np.asarray, joined(question, answer))
    return lower_states(lm.backbone, params["backbone"], whole, below, cfg, what, whose)


def lower_states(
    backbone: Decoder,
    params: PyTree,
    tokens: Tokens,
    below: int,
    cfg: FeatureConfig,
    what: str,
    whose: Sequence[str] = (),
) -> FeatureStore:
    """The residual stream behind the lowest `below` layers [N, L, D], for `Tokens.states_BLD`.

    backbone, params: the decoder, cut at `below`, and its weights. tokens: texts, one a row. below: layers that nothing
    changes. cfg: where states are kept. what: the texts are, for a line. whose: the tenants.
    """
    run = lambda params, tokens: half_read(backbone, params, tokens, below)
    layers = f"the state below layer {below}"
    return keep_states(run, params, tokens, cfg, layers=layers, what=what, whose=whose)


def piece_states(
    lm: PersonalLM,
    params: PyTree,
    tokens: Tokens,
    cfg: FeatureConfig,
    what: str,
    whose: Sequence[str] = (),
) -> FeatureStore:
    """The hidden states that Z is made of, side by side [N, L, top_k * D].

    lm, params: the model. tokens: texts. cfg: where states are kept. what: the texts are, for a line. whose: tenants.
    """
    weights = {name: params[name] for name in ("backbone", "lfe_delta") if name in params}
    top_k = lm.cfg.lfe.top_k
    run = lambda weights, tokens: top_row(
        lm.backbone, top_k, weights["backbone"], tokens, weights.get("lfe_delta")
    )
    layers = f"the {top_k} highest hidden states"
    return keep_states(run, weights, tokens, cfg, layers=layers, what=what, whose=whose)


def top_row(backbone: Any, top_k: int, params: PyTree, tokens: Tokens, delta: Any = None) -> Array:
    """`lfe.top_states` side by side, as `lfe.from_states` takes them: [B, L, top_k * D].

    backbone, top_k, params, tokens, delta: as of `lfe.top_states`.
    """
    states = top_states(backbone, top_k, params, tokens, delta)
    return jax.numpy.concatenate(states, axis=-1)


# ------------------------------------------------------------------------------------------ inside


def _compact(
    forward: Callable[[PyTree, Tokens], Array],
    params: PyTree,
    ids_NL: np.ndarray,
    mask_NL: np.ndarray,
    width: int,
    rows: int,
) -> np.ndarray:
    """The states [N, L, W] of rows, computed without their padding and put back into their places."""
    states_NLW = np.zeros((*ids_NL.shape, width), np.float32)
    real_N = mask_NL.sum(1)
    order_N = np.argsort(real_N, kind="stable")
    for at in range(0, len(order_N), rows):
        chosen = order_N[at : at + rows]
        # One program for each width: the last batch repeats its last row, and is not wider than the rows are.
        filled = np.pad(chosen, (0, rows - len(chosen)), mode="edge")
        longest = int(max(real_N[chosen].max(), 1))
        longest = min(-(-longest // _ROUNDED) * _ROUNDED, ids_NL.shape[1])
        ids_BL = np.zeros((rows, longest), np.int32)
        mask_BL = np.arange(longest)[None, :] < real_N[filled][:, None]
        for b, n in enumerate(filled):
            ids_BL[b, : real_N[n]] = ids_NL[n][mask_NL[n]]
        made = np.asarray(forward(params, Tokens(ids_BL, mask_BL)), np.float32)
        for b, n in enumerate(chosen):
            states_NLW[n, mask_NL[n]] = made[b, : real_N[n]]
    return states_NLW
