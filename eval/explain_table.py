"""The table of GenRec's explanations: every model on XRec's held-out readers and on held-out people of the shops."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.config import ConfigError
from jaxrec.data import explanations
from jaxrec.data.explanations import XREC
from jaxrec.dialogue.prompts.items import template_reason
from jaxrec.eval.explain_writer import MeasuredWriter, ModelRow, perplexity
from jaxrec.rewards.reward import Reward, Sample, Score, score_samples
from jaxrec.text_metrics import Catalogue, EmbedTokens, distinct_n, rouge_l, soft_matches

Row = dict[str, Any]
SETS = (
    "XRec",
    "rated",
    "asked",
)  # written explanations; rating-aware prompts; queries of people who rated
COMMON = 0.1  # a word in more than this share of the profiles says nothing of its reader


@dataclasses.dataclass(frozen=True)
class Held:
    """Held-out rows of one of the SETS, the same for all models, each with the catalogue of its source."""

    rows: tuple[Row, ...]
    catalogues: Mapping[str, Catalogue]

    @property
    def prompts(self) -> list[str]:
        """What the models are given."""
        return [row["prompt"] for row in self.rows]


def read_held(folder: str | Path, count: int, seed: int = 0) -> dict[str, Held]:
    """`count` rows at most of each of the SETS, drawn from the people held out for the test.

    Catalogues know all items of the folder. Raises ConfigError where a set has no row.
    """
    rows = {
        part: list(explanations.read_part(folder, part))
        for part in explanations.PARTS
        if any(Path(folder).glob(f"{part}-*.jsonl.gz"))
    }
    everything = [row for part in rows.values() for row in part]
    profiles = [set(row["keywords"]) for row in rows.get("train", ()) if row["source"] == XREC]
    people = Counter(word for profile in profiles for word in profile)
    common = {word for word, n in people.items() if n > COMMON * len(profiles)}
    found = {}
    for name in SETS:
        mine = [row for row in rows.get("test", ()) if set_of(row) == name]
        if not mine:
            raise ConfigError(f"{folder} has no test rows for {name}: make it by instruction_pairs")
        chosen = np.random.default_rng(seed).permutation(len(mine))[:count]
        told = [mine[i] for i in sorted(chosen.tolist())]
        if name == "XRec":
            told = [r | {"keywords": [w for w in r["keywords"] if w not in common]} for r in told]
        catalogues = {source: _catalogue(everything, source) for source in _sources(told)}
        found[name] = Held(tuple(told), catalogues)
    return found


def set_of(row: Row) -> str:
    """Which of the SETS a row belongs to."""
    if row["source"] == XREC:
        return "XRec"
    return "asked" if row["template"] == "query/1" else "rated"


def _sources(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["source"] for row in rows))


def _catalogue(rows: Sequence[Row], source: str) -> Catalogue:
    """Of one source."""
    own = {row["item"]: row for row in rows if row["source"] == source}.values()
    return Catalogue((row["title"] for row in own), (row["attributes"] for row in own))


# ------------------------------------------------------------------------------------------- rows without a model


def reference(row: Row) -> str:
    """The answer that the row was written with: the ceiling of every likeness."""
    return row["completion"].strip()


def template(row: Row) -> str:
    """What the explainer says where a model fails."""
    features = row["features"] if row["source"] != XREC else []
    return template_reason(row["title"], row["keywords"][:3], row["category"], features)


def copied(row: Row) -> str:
    """The floor: the prompt's own words about the item, copied."""
    lines = row["prompt"].splitlines()
    told = [line.partition(": ")[2] for line in lines if line.startswith(("Item", "Metadata"))]
    return " ".join(told)


FIXED: Mapping[str, Callable[[Row], str]] = {
    "reference (ceiling)": reference,
    "template": template,
    "prompt copied (floor)": copied,
}


# ------------------------------------------------------------------------------------------- measures


def table(
    held: Mapping[str, Held],
    models: Sequence[ModelRow],
    reward: Reward,
    embed_tokens: EmbedTokens,
    loaded: Mapping[str, MeasuredWriter],
    batch: int = 16,
) -> tuple[list[Row], list[Row]]:
    """(a row for each model and set, what each of them wrote to the first prompts).

    loaded: writers that are there already, by the model's name; the others are loaded, one at a time.
    """
    told, samples = [], []
    for model in models:
        writer = loaded.get(model.name) or MeasuredWriter(model, batch)
        for name, part in held.items():
            nats, tokens = writer.nats([(r["prompt"], r["completion"]) for r in part.rows])
            texts = writer(part.prompts)
            facts = {"perplexity": perplexity(nats), "tokens": tokens}
            told.append(_row(model.name, name, part, texts, reward, embed_tokens) | facts)
            samples += _samples(model.name, name, part, texts)
    for label, write in FIXED.items():
        for name, part in held.items():
            texts = [write(row) for row in part.rows]
            told.append(_row(label, name, part, texts, reward, embed_tokens))
            samples += _samples(label, name, part, texts)
    return told, samples


def _row(
    model: str,
    name: str,
    held: Held,
    texts: Sequence[str],
    reward: Reward,
    embed_tokens: EmbedTokens,
) -> Row:
    references = [reference(row) for row in held.rows]
    rouge = [rouge_l(a, b).f1 for a, b in zip(texts, references, strict=True)]
    near = [match.f1 for match in soft_matches(texts, references, embed_tokens)]
    scores = score_samples(reward, [sample(r, t) for r, t in zip(held.rows, texts, strict=True)])
    return {
        "model": model,
        "set": name,
        "n": len(texts),
        "perplexity": None,
        "rouge_l": float(np.mean(rouge)),
        "similarity": float(np.mean(near)),
        **truth(held, texts),
        "reward": float(np.mean([score.total for score in scores])),
        **_means(scores, "parts", "reward"),
        **_means(scores, "gaming", "gaming"),
        "distinct_2": distinct_n(texts, 2),
        "words": float(np.mean([len(t.split()) for t in texts])),
    }


def sample(row: Row, text: str) -> Sample:
    """A text as the reward takes it."""
    return Sample(row["prompt"], text, row["rating"], row["persona"], row["title"])


def truth(held: Held, texts: Sequence[str]) -> dict[str, float | None]:
    """Shares of the texts that name their item, another item, a word of the persona; and attributes a text.

    Attributes are None where the catalogue has none.
    """
    said = [
        held.catalogues[row["source"]].check(
            text,
            row["title"],
            row["attributes"],
            row["keywords"],
        )
        for row, text in zip(held.rows, texts, strict=True)
    ]
    known = any(row["attributes"] for row in held.rows)
    return {
        "named": float(np.mean([s.named for s in said])),
        "another": float(np.mean([bool(s.others) for s in said])),
        "persona": float(np.mean([bool(s.persona) for s in said])),
        "true": float(np.mean([len(s.true) for s in said])) if known else None,
        "false": float(np.mean([len(s.false) for s in said])) if known else None,
    }


def _means(scores: Sequence[Score], field: str, prefix: str) -> dict[str, float]:
    names = dict.fromkeys(name for score in scores for name in getattr(score, field))
    return {
        f"{prefix}/{name}": float(np.mean([getattr(score, field)[name] for score in scores]))
        for name in names
    }


def _samples(model: str, name: str, held: Held, texts: Sequence[str], many: int = 3) -> list[Row]:
    return [
        {"model": model, "set": name, "prompt": row["prompt"], "text": text}
        for row, text in zip(held.rows[:many], texts[:many], strict=True)
    ]
