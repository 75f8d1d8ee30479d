"""From what is known of tenants to evidence for the profile encoder: texts -> Z, once; then any choice of pieces.

    Pieces (token rows) --LFE--> KnownZ [U, R, L, d_z] --choose S pieces--> Evidence [B, S * L, d_z]

A piece is kept token by token: a greeting, an emoji or a closing word is one vector among many, and pooling would drown
it. Stored in half precision; the LFE is frozen, so this is computed once for all epochs.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxrec.data.feature_store import FeatureConfig, FeatureStore
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.data.turns import ANSWER, FEEDBACK, GUIDE, Pieces, TurnRows, choose_evidence
from jaxrec.models.personal.frozen_states import piece_states
from jaxrec.models.personal.lfe import from_states
from jaxrec.models.personal.personal_lm import PersonalLM
from jaxrec.models.personal.profile import Evidence, ProfileEncoder
from jaxrec.structs import Tokens, Turns


class KnownZ(NamedTuple):
    """Z of R pieces of each of U tenants."""

    z_URLD: np.ndarray  # float16
    mask_URL: np.ndarray
    kind_UR: np.ndarray
    label_UR: np.ndarray


def read_pieces(
    lm: PersonalLM,
    params: PyTree,
    pieces: Pieces,
    rows: int = 128,
    features: FeatureConfig | None = None,
    whose: Sequence[str] = (),
) -> KnownZ:
    """Runs backbone and LFE over every piece.

    Args:
      lm: the model.
      params: "backbone" and "lfe" are read.
      pieces: what is known of tenants, as token rows.
      rows: at a time.
      features: where the backbone's states are kept, so that only the LFE runs where they are there.
      whose: the tenants, as kept features name them.
    """
    ids, mask = pieces.rows["ids_BL"], pieces.rows["mask_BL"]
    count = len(ids)
    if features is not None and features.folder:
        states = piece_states(
            lm, params, Tokens(ids, mask), features, "what is known of tenants", whose
        )
        own = jax.jit(lambda lfe, x, mask: from_states(lm.lfe, lfe, x, mask).z_seq_BLD)
        run = lambda at, mask: own(params["lfe"], _filled(states[at], rows), mask)
    else:
        encode = jax.jit(lambda params, ids, mask: lm.encode(params, Tokens(ids, mask)).z_seq_BLD)
        run = lambda at, mask: encode(params, _filled(ids[at], rows), mask)
    # The last batch is filled up, so that there is one program.
    batches = [slice(i, min(i + rows, count)) for i in range(0, count, rows)]
    parts = [np.asarray(run(at, _filled(mask[at], rows)), np.float16) for at in batches]
    z = np.concatenate(parts)[:count]
    lead = pieces.kind_UR.shape
    there = np.arange(lead[1])[None, :] < pieces.count_U[:, None]
    return KnownZ(
        z.reshape(*lead, *z.shape[1:]),
        mask.reshape(*lead, -1) & there[..., None],
        pieces.kind_UR,
        pieces.label_UR,
    )


def _filled(x: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(x, ((0, rows - len(x)), *((0, 0),) * (x.ndim - 1)))


def evidence_of(
    known: KnownZ, tenant_B: np.ndarray, index_BR: np.ndarray, there_BR: np.ndarray
) -> Evidence:
    """Chosen pieces of each row's tenant, their tokens one after another.

    Args:
      known: Z of all pieces of all tenants.
      tenant_B: whose each row is.
      index_BR: numbers of the pieces.
      there_BR: which of them there are.
    """
    at = (tenant_B[:, None], index_BR)
    b, r, length = *index_BR.shape, known.z_URLD.shape[2]
    # A piece's kind and label stand at each of its tokens, because tokens are the evidence.
    wide = lambda x: np.repeat(x, length, axis=1)
    return Evidence(
        # Half precision is for keeping: the encoder computes in f32.
        known.z_URLD[at].astype(np.float32).reshape(b, r * length, -1),
        wide(known.kind_UR[at]),
        wide(known.label_UR[at]),
        (known.mask_URL[at] & there_BR[..., None]).reshape(b, r * length),
    )


def onboarding_evidence(known: KnownZ, tenants: np.ndarray, examples: int) -> Evidence:
    """All that is known of some tenants who have given `examples` example answers: guide and feedback come on top.

    With 0 examples the guide alone is left: feedback, too, is on answers.
    """
    kind = known.kind_UR[tenants]
    # The first answers of each tenant in the order in which they were given: more examples only ever add to fewer.
    rank = np.cumsum(kind == ANSWER, axis=1)
    there = np.where(kind == ANSWER, rank <= examples, (kind == GUIDE) | (examples > 0))
    there &= np.isin(kind, (GUIDE, ANSWER, FEEDBACK))
    index = np.broadcast_to(np.arange(kind.shape[1])[None, :], kind.shape)
    return evidence_of(known, np.asarray(tenants), index, there)


def infer_p(
    encoder: ProfileEncoder, params: PyTree, known: KnownZ, examples: int, tenants_a_time: int = 8
) -> np.ndarray:
    """p [U, E] of every tenant, inferred in one pass each.

    Args:
      encoder: from evidence to p.
      params: of the encoder.
      known: Z of the tenants' pieces.
      examples: how many of a tenant's answers are looked at, beside its guide.
      tenants_a_time: of a batch.
    """
    apply = _jitted(encoder)
    count = len(known.kind_UR)
    parts = []
    for start in range(0, count, tenants_a_time):
        # The last batch repeats the last tenant, so that there is one program.
        chosen = np.arange(start, start + tenants_a_time).clip(max=count - 1)
        parts.append(np.asarray(apply(params, onboarding_evidence(known, chosen, examples))))
    return np.concatenate(parts)[:count]


@functools.cache
def _jitted(encoder: ProfileEncoder):
    return jax.jit(lambda params, evidence: encoder.apply({"params": params}, evidence))


def blank(d_z: int) -> Evidence:
    """Evidence of nothing, for an encoder's init."""
    return Evidence(
        np.zeros((1, 1, d_z), np.float32),
        np.zeros((1, 1), np.int32),
        np.zeros((1, 1), np.float32),
        np.zeros((1, 1), bool),
    )


def turn_source(
    rows: TurnRows,
    pieces: Pieces,
    known: KnownZ,
    batch: int,
    *,
    pieces_a_row: int,
    seed: int = 0,
    share: slice | None = None,
    states: FeatureStore | None = None,
) -> Prefetch:
    """Batches of `Turns`, each row with evidence of its tenant that does not hold its own answer.

    Args:
      rows: questions and answers of all tenants.
      pieces: what is known of the tenants.
      known: Z of those pieces.
      batch: rows of a batch, of the whole job.
      pieces_a_row: how many pieces a row sees at most.
      seed: of the order and of the choice.
      share: this process's part of a batch.
      states: of `frozen_states.question_states`, where those of the rows are kept.
    """
    # Chosen without the row's own answer, or p could carry the answer instead of the person.
    index, there = choose_evidence(pieces, rows.tenant_N, rows.dialogue_N, pieces_a_row, seed)

    def make(picked: dict) -> Turns:
        evidence = evidence_of(known, picked["tenant"], picked["index"], picked["there"])
        question, answer = (Tokens(**picked[name]) for name in ("question", "answer"))
        return Turns(question, answer, picked["tenant"], evidence, picked["states"])

    arrays = {
        "question": rows.question,
        "answer": rows.answer,
        "tenant": rows.tenant_N,
        "index": index,
        "there": there,
        "states": states,
    }
    # Evidence is gathered in the background, while a step runs.
    return Prefetch(ArraySource(arrays, batch, seed=seed, share=share, make=make))
