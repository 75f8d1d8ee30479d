"""Floors on texts whose right figures are known by hand."""

import numpy as np
import pytest

from jaxrec.world.floors import nearest, overlap, recall, similarity, tenant_rows, token_f1
from jaxrec.world.tenants import generate


def test_nearest_copies_the_answer_of_the_closest_question():
    known = [("When do you open?", "At nine."), ("How much is a blue mug?", "Four.")]
    asked = ["What does the blue mug cost, how much?", "when do you open", "Open when?"]
    assert nearest(asked, known) == ["Four.", "At nine.", "At nine."]


def test_similarity_is_a_cosine():
    texts = ["one two three", "three four", "five"]
    scores = similarity(texts, texts)
    np.testing.assert_allclose(np.diag(scores), 1.0, atol=1e-5)
    assert scores[0, 2] < scores[0, 1] < 1
    assert similarity(["zzz"], texts).max() == 0.0


def test_overlap_by_hand():
    train = ["a b c d e f g h i j"]
    assert vars(overlap(["A b c d x"], train)) == {"four": 0.5, "eight": 0.0, "exact": 0.0}
    assert vars(overlap(train, train)) == {"four": 1.0, "eight": 1.0, "exact": 1.0}


def test_token_f1_by_hand():
    assert token_f1("We open at nine.", "we open at nine.") == 1.0
    assert token_f1("a b", "b c") == 0.5
    assert token_f1("a", "b") == 0.0


def test_recall_masks_history_and_breaks_ties_by_index():
    score = np.array([3.0, 2.0, 1.0, 1.0])
    assert recall(score, np.array([0]), np.array([], int), k=1) == 1.0
    assert recall(score, np.array([1]), np.array([0]), k=1) == 1.0
    assert recall(score, np.array([2, 3]), np.array([0, 1]), k=1) == 0.5


def test_the_rows_of_generated_tenants_stand_in_order():
    rows = {row["row"]: row for row in tenant_rows({"some": generate(0, 10)})}
    assert rows["oracle"]["style"] == rows["oracle"]["facts"] == rows["oracle"]["f1"] == 1.0
    assert (
        rows["nearest"]["style"] == 1.0 > rows["nearest"]["facts"] > rows["other tenant"]["facts"]
    )
    assert rows["other tenant"]["style"] == pytest.approx(0.35, abs=0.15)
