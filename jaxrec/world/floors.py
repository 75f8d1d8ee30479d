"""What a model has to beat, and what it cannot beat: floors and oracles of the sample world.

- `nearest`: copy the answer of the tenant's onboarding whose question is closest (TF-IDF of words and letters).
- `overlap`: how much of the held-out answers stands word for word in training, so that memory cannot pass for learning.
- `tenant_rows`, `shop_rows`: those, beside the oracle (the right answer itself, the planted score) and chance.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Float, Int

from jaxrec.world.grammar import fact_met
from jaxrec.world.records import WorldTenant
from jaxrec.world.shops import Shops
from jaxrec.world.style import fraction_met


def features(text: str) -> Counter:
    """Words, and letters by threes and fours inside them."""
    text = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
    grams = [text[i : i + n] for n in (3, 4) for i in range(len(text) - n + 1)]
    return Counter(grams + [f"={word}" for word in text.split()])


def similarity(queries: Sequence[str], keys: Sequence[str]) -> Float[np.ndarray, "Q K"]:
    """Cosine of TF-IDF vectors (sublinear counts; document frequencies of the keys)."""
    counts = [features(text) for text in keys]
    seen = Counter(f for c in counts for f in c)
    column = {f: i for i, f in enumerate(sorted(seen))}
    idf = {f: np.log((1 + len(keys)) / (1 + n)) + 1 for f, n in seen.items()}

    def vectors(rows: Iterable[Counter]) -> Float[np.ndarray, "N W"]:
        rows = list(rows)
        out_NW = np.zeros((len(rows), len(column)), np.float32)
        for i, row in enumerate(rows):
            for f, n in row.items():
                if f in column:
                    out_NW[i, column[f]] = (1 + np.log(n)) * idf[f]
        return out_NW / np.maximum(np.linalg.norm(out_NW, axis=1, keepdims=True), 1e-9)

    return vectors(features(text) for text in queries) @ vectors(counts).T


def nearest(questions: Sequence[str], known: Sequence[tuple[str, str]]) -> list[str]:
    """For each question the answer of the known (question, answer) pair whose question is closest; ties: the first."""
    scores_QK = similarity(questions, [question for question, _ in known])
    return [known[k][1] for k in scores_QK.argmax(1)]


def tokens(text: str) -> list[str]:
    """Lower-case words and marks."""
    return re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower().replace("’", "'"))


@dataclass(frozen=True)
class Overlap:
    """Shares of the held-out answers' 4-grams and 8-grams, and of whole answers, that stand in training answers."""

    four: float
    eight: float
    exact: float


def overlap(held: Sequence[str], train: Sequence[str]) -> Overlap:
    """Counted over all n-grams of all held-out answers, each as often as it occurs."""

    def grams(text: str, n: int) -> list[tuple[str, ...]]:
        words = tokens(text)
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    shares = []
    for n in (4, 8):
        known = {g for text in train for g in grams(text, n)}
        asked = [g for text in held for g in grams(text, n)]
        shares.append(sum(g in known for g in asked) / max(len(asked), 1))
    whole = {tuple(tokens(text)) for text in train}
    return Overlap(
        *shares, exact=sum(tuple(tokens(text)) in whole for text in held) / max(len(held), 1)
    )


def token_f1(answer: str, gold: str) -> float:
    """F1 of the two bags of words."""
    a, b = Counter(tokens(answer)), Counter(tokens(gold))
    both = sum((a & b).values())
    return 2 * both / max(sum(a.values()) + sum(b.values()), 1)


def tenant_rows(groups: dict[str, Sequence[WorldTenant]], seed: int = 0) -> list[dict]:
    """A row for each group and contender: style met, facts stated (of the answers that have any), token F1.

    Contenders: "oracle" is the right answer itself, "nearest" copies from the tenant's own onboarding, "other
    tenant" is the right answer of another tenant of the group to a question on the same topic.
    """
    rows = []
    for group, tenants in groups.items():
        rng, answers = Random(f"{seed}/floors"), {"oracle": [], "nearest": [], "other tenant": []}
        by_topic: dict[str, list[tuple[str, str]]] = {}
        for tenant in tenants:
            for d in tenant.heldout:
                by_topic.setdefault(d.topic, []).append((tenant.key, d.answer))
        for tenant in tenants:
            known = [(d.question, d.answer) for d in tenant.onboarding]
            copies = nearest([d.question for d in tenant.heldout], known)
            for d, copy in zip(tenant.heldout, copies, strict=True):
                others = [a for key, a in by_topic[d.topic] if key != tenant.key]
                answers["oracle"].append((tenant, d, d.answer))
                answers["nearest"].append((tenant, d, copy))
                if others:
                    answers["other tenant"].append((tenant, d, rng.choice(others)))
        rows += [
            {"group": group, "row": name, **_scored(said)} for name, said in answers.items() if said
        ]
    return rows


def _scored(said: list[tuple]) -> dict[str, float]:
    facts = [fact_met(answer, d.facts) for _, d, answer in said if d.facts]
    return {
        "style": float(np.mean([fraction_met(answer, t.style) for t, _, answer in said])),
        "facts": float(np.mean(facts)) if facts else float("nan"),
        "f1": float(np.mean([token_f1(answer, d.answer) for _, d, answer in said])),
        "n": len(said),
    }


def shop_rows(shops: Shops, seed: int = 0) -> list[dict]:
    """Recall@10 of the planted score, of popularity, and of chance: leave-one-out, full ranking, history masked.

    "last" is each person's last event among all items; "cold" is what cold people would buy in the shop that they
    never used, among that shop's items. Ties go to the smaller index.
    """
    people, count = shops.people, len(shops.catalog)
    popular_I = np.zeros(count)
    for person in people:
        np.add.at(popular_I, person.items_T[:-1], 1)
    chance_UI = np.random.RandomState(seed).random_sample((len(people), count))
    rows = []
    for name, scores_UI in {
        "oracle": shops.oracle_UI,
        "popularity": np.broadcast_to(popular_I, chance_UI.shape),
        "chance": chance_UI,
    }.items():
        last = [recall(scores_UI[u], p.items_T[-1:], p.items_T[:-1]) for u, p in enumerate(people)]
        shop_I = np.array(shops.catalog.shop)
        cold = [
            recall(scores_UI[u], wanted_T, np.flatnonzero(shop_I != people[u].cold[0]))
            for u, wanted_T in shops.cold.items()
        ]
        rows.append(
            {"row": name, "last R@10": float(np.mean(last)), "cold R@10": float(np.mean(cold))}
        )
    return rows


def recall(
    score_I: Float[np.ndarray, "I"],
    wanted_T: Int[np.ndarray, "T"],
    masked_X: Int[np.ndarray, "X"],
    k: int = 10,
) -> float:
    """Share of the wanted items among the k best that are not masked.

    score_I: of all items. wanted_T: numbers of the wanted ones. masked_X: of those that may not be listed.
    """
    score_I = np.array(score_I, float)
    score_I[masked_X] = -np.inf
    return float(np.isin(wanted_T, np.argsort(-score_I, kind="stable")[:k]).mean())
