"""From what is known of tenants to their p: order does not matter, padding does not, and a stranger is a stranger."""

import numpy as np
import pytest
import tiny_personal as tiny

from jaxrec.data import turns
from jaxrec.data.chat import OwnChat
from jaxrec.data.text import train_tokenizer
from jaxrec.data.turns import ANSWER, FEEDBACK, GUIDE, Pieces
from jaxrec.models.personal.onboarding import (
    KnownZ,
    evidence_of,
    infer_p,
    onboarding_evidence,
    read_pieces,
    turn_source,
)
from jaxrec.world.tenants import generate

KINDS = [GUIDE, GUIDE, ANSWER, ANSWER, ANSWER, FEEDBACK, FEEDBACK]
U, R, L = 3, len(KINDS), 4


def pieces() -> Pieces:
    rng = np.random.default_rng(0)
    rows = tiny.tokens(rng, U * R, L)
    count = np.array([7, 7, 5], np.int32)
    return Pieces(
        {"ids_BL": rows.ids_BL, "mask_BL": rows.mask_BL},
        np.tile(np.array(KINDS, np.int32), (U, 1)),
        np.tile(np.array([0, 0, 0, 0, 0, 1, -1], np.float32), (U, 1)),
        count,
    )


@pytest.fixture(scope="module")
def known() -> KnownZ:
    return read_pieces(tiny.LM, tiny.params(), pieces(), rows=8)


def inferred(known: KnownZ, examples: int) -> np.ndarray:
    return infer_p(tiny.ENCODER, tiny.params()["encoder"], known, examples, tenants_a_time=2)


def test_pieces_are_read_whatever_the_batch_they_are_read_in(known):
    again = read_pieces(tiny.LM, tiny.params(), pieces(), rows=16)
    np.testing.assert_allclose(again.z_URLD, known.z_URLD, atol=2e-3)  # half precision
    assert known.z_URLD.shape == (U, R, L, tiny.D_Z) and known.z_URLD.dtype == np.float16
    np.testing.assert_array_equal(
        known.mask_URL[:2].reshape(-1, L), pieces().rows["mask_BL"][: 2 * R]
    )
    assert not known.mask_URL[2, 5:].any()  # places that the tenant does not fill


def test_the_order_of_the_pieces_does_not_matter(known):
    order = np.random.default_rng(1).permutation(R)
    shuffled = KnownZ(*(x[:, order] for x in known))
    np.testing.assert_allclose(inferred(shuffled, 30), inferred(known, 30), atol=1e-4)
    assert np.ptp(inferred(known, 30), axis=0).min() > 1e-3  # tenants differ


def test_without_evidence_everybody_is_the_same_stranger(known):
    nothing = known._replace(mask_URL=np.zeros_like(known.mask_URL))
    p_UE = inferred(nothing, 30)
    np.testing.assert_array_equal(p_UE, np.repeat(p_UE[:1], U, 0))


def test_what_is_not_there_changes_nothing(known):
    noise = np.where(known.mask_URL[..., None], known.z_URLD, np.float16(7))
    np.testing.assert_allclose(
        inferred(known._replace(z_URLD=noise), 30), inferred(known, 30), atol=1e-5
    )


@pytest.mark.parametrize(
    ("examples", "used"), [(0, [0, 1]), (1, [0, 1, 2, 5, 6]), (2, [0, 1, 2, 3, 5, 6])]
)
def test_onboarding_with_k_examples_reads_k_answers(known, examples, used):
    full = known._replace(mask_URL=np.ones_like(known.mask_URL))
    seen = onboarding_evidence(full, np.arange(U), examples).mask_BS.reshape(U, R, L)
    for u in range(U):
        assert np.flatnonzero(seen[u].all(-1)).tolist() == used
        assert seen[u].any(-1).sum() == len(used)


def test_evidence_is_of_the_rows_own_tenant(known):
    tenant, index = np.array([2, 0], np.int32), np.array([[4, 0], [6, 2]])
    evidence = evidence_of(known, tenant, index, np.array([[True, False], [True, True]]))
    np.testing.assert_array_equal(evidence.z_BSD[0, :L], known.z_URLD[2, 4].astype(np.float32))
    np.testing.assert_array_equal(evidence.z_BSD[1, L:], known.z_URLD[0, 2].astype(np.float32))
    assert not evidence.mask_BS[0, L:].any()
    assert evidence.label_BS[1].tolist() == [-1.0] * L + [0.0] * L
    assert evidence.kind_BS[1].tolist() == [FEEDBACK] * L + [ANSWER] * L


def test_no_batch_gives_a_row_its_own_answer():
    """Over an epoch of the source itself: the text to be predicted is not among the row's evidence."""
    tenants = generate(n=3)
    chat = OwnChat(train_tokenizer([d.answer for t in tenants for d in t.onboarding], 350))
    own = [t.onboarding[:6] for t in tenants]
    rows = turns.turn_rows(chat, own, 12, 24)
    known_of = turns.evidence_pieces(chat, tenants, 24, examples=6, guide=2, judged=0)
    # Z that tells which piece it is: tenant and place
    place = np.arange(3 * known_of.kind_UR.shape[1]).reshape(3, -1)
    z = np.broadcast_to(place[..., None, None], (*place.shape, 1, 2)).astype(np.float16)
    known = KnownZ(z, np.ones(z.shape[:3], bool), known_of.kind_UR, known_of.label_UR)
    source = turn_source(rows, known_of, known, 9, pieces_a_row=4, seed=2)
    said = known_of.rows["ids_BL"]
    state, seen = source.init(), 0
    for step in range(6):
        batch, state = source(step, None, state)
        for row in range(9):
            there = batch.evidence.mask_BS[row]
            chosen = batch.evidence.z_BSD[row, there, 0].astype(int)
            answer = batch.answer.ids_BL[row][batch.answer.mask_BL[row]]
            assert len(chosen) >= 2
            assert {int(c) // place.shape[1] for c in chosen} == {int(batch.tenant_B[row])}
            texts = {tuple(said[c][:24].tolist()) for c in chosen}
            assert tuple(np.pad(answer, (0, 24 - len(answer))).tolist()) not in texts
            seen += len(chosen)
    assert seen > 100
