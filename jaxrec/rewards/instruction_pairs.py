"""Floor 3: instruction pairs from ratings, personas and what is known of the items (GenRec, phase 6).

    python -m jaxrec.rewards.instruction_pairs --out runs/genrec/pairs       ML-100K, gift cards, XRec
    python -m jaxrec.rewards.instruction_pairs --limit 4000 --out OUT        of each set so many
    python -m jaxrec.rewards.instruction_pairs --count 1100000 --templates rating/2 rating/1
                                                                              counts and times, writes no pair
    python -m jaxrec.rewards.instruction_pairs --out OUT --cluster auto      pairs are made by a Ray cluster

Streamed: a pair is made, compared by 8 bytes of its hash with those before it, and written to OUT/PART-00000.jsonl.gz.
People are split by the hash of their names into train, valid and test, so nobody is in two of them.

CLUSTER (auto, HOST:PORT, ray://HOST:PORT, local:2) names workers that make runs of events; this process compares and
writes, so the files are the same. Every machine finds the sets in its own JAXREC_DATA.
"""

import dataclasses
import functools
import json
import resource
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxrec import config, results
from jaxrec.cluster import map_shards
from jaxrec.config import ConfigError
from jaxrec.data import explanations
from jaxrec.data.explanations import Distinct, Shards, digest, part_of
from jaxrec.data.interaction_sets import DataConfig, InteractionSet, Items, read
from jaxrec.dialogue.prompts.items import (
    FITTING,
    Template,
    join_words,
    metadata,
    query_prompt,
    rating_prompt,
    rating_response,
    template_reason,
)
from jaxrec.people.personas import PersonasConfig, fit_personas
from jaxrec.people.words import words

Row = dict[str, Any]
SCALE = (
    "ml-100k",
    "amazon18-gift-cards",
    "amazon14-beauty",
    "amazon18-minionerec-industrial",
    "ml-1m",
)
RUN = 16_384  # events that a worker makes pairs of at a time
NAMED = 3  # interests and features that an answer lists
KINDS = 12  # so many different kinds of item describe a taste better than the words of titles


@dataclasses.dataclass(frozen=True)
class PairsConfig:
    """Which sets, which template, where to. `limit`: pairs of each set, drawn at random; 0: all of them."""

    sets: tuple[str, ...] = ("ml-100k", "amazon18-gift-cards", "amazon18-minionerec-industrial")
    xrec: bool = True
    templates: tuple[Template, ...] = ("rating/2",)  # a pair of each event in each of them
    personas: PersonasConfig = PersonasConfig(restarts=3)
    width: int = 32  # of the vectors by which people are clustered
    limit: int = 0
    seed: int = 0
    shard: int = 250_000  # rows
    count: int = 0  # so many pairs are made of more sets, counted and timed; none is written
    out: str = "runs/genrec/pairs"
    results: str = ""  # folder for a file of record with the counts, the time and the memory
    cluster: str = ""  # the workers that make pairs; "": this process


@dataclasses.dataclass(frozen=True)
class ItemFacts:
    """What may truly be said of an item: its title, its kind in a word or two, and further features, best first.

    attributes: what the catalogue itself tells (kinds, brand, year). Features that are words of a title or description
    are none: their absence elsewhere means nothing, so nobody can be held to them.
    """

    title: str
    category: str
    features: tuple[str, ...]
    attributes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Interest:
    """A person in a prompt: the persona in words, and the words alone, best first."""

    persona: str
    keywords: tuple[str, ...]


def main(cfg: PairsConfig) -> dict[str, Any]:
    """Makes the pairs, prints what came out, gives it. Raises ConfigError where `count` cannot be reached."""
    began = time.perf_counter()
    distinct = Distinct()
    if cfg.count:
        made = _count(cfg, distinct)
    else:
        with Shards(cfg.out, cfg.shard) as shards:
            for part, number, line in lines(cfg):
                if distinct.add(number):
                    shards.write_line(part, line)
            made = dict(shards.count)
    wall_s = time.perf_counter() - began
    told = {
        "pairs": len(distinct),
        **made,
        "duplicates": distinct.dropped,
        "wall_s": round(wall_s, 1),
        "pairs_s": round((len(distinct) + distinct.dropped) / wall_s),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print("  ".join(f"{name} {value:,}" for name, value in told.items()))
    if cfg.results:
        results.write_results(
            cfg.results, "instruction_pairs", [told], config=cfg, seed=cfg.seed, wall_s=wall_s
        )
    return told


def _count(cfg: PairsConfig, distinct: Distinct) -> dict[str, int]:
    parts = dict.fromkeys(explanations.PARTS, 0)
    sets = tuple(dict.fromkeys([*cfg.sets, *SCALE]))
    for part, number, _ in lines(dataclasses.replace(cfg, sets=sets)):
        if distinct.add(number):
            parts[part] += 1
        if len(distinct) == cfg.count:
            return parts
    raise ConfigError(f"count {cfg.count:,}: the sets give {len(distinct):,} different pairs")


class Run(NamedTuple):
    """Events start..stop, of those chosen, of a set in a template; of XRec ("") all."""

    name: str
    template: Template
    start: int
    stop: int


Line = tuple[str, int, str]  # part of the people, digest of prompt and completion, the row as JSON


def lines(cfg: PairsConfig) -> Iterator[Line]:
    """All pairs of all sets, duplicates included, one after the other, made here or by a cluster."""
    if cfg.xrec:
        for row in explained_rows():
            yield _line(row)
    made = map_shards(
        functools.partial(_run_lines, cfg),
        _runs(cfg),
        address=cfg.cluster,
        name=lambda _, run: f"events {run.start}-{run.stop - 1} of {run.name}, {run.template}",
    )
    for run in made:
        yield from run


def _runs(cfg: PairsConfig) -> Iterator[Run]:
    for name in cfg.sets:
        count = len(read(DataConfig(name)).interactions)
        count = min(cfg.limit or count, count)
        for template in cfg.templates:
            for start in range(0, count, RUN):
                yield Run(name, template, start, min(start + RUN, count))


def _run_lines(cfg: PairsConfig, run: Run) -> list[Line]:
    known = _known(run.name, cfg.personas, cfg.width)
    return [_line(row) for row in _rated(known, cfg, run.template, slice(run.start, run.stop))]


def _line(row: Row) -> Line:
    part = part_of(f"{row['source']}:{row['user']}")
    return part, digest(row["prompt"], row["completion"]), json.dumps(row, ensure_ascii=False)


# ---------------------------------------------------------------------------------- ratings


def rated_rows(
    data: InteractionSet, cfg: PairsConfig, template: Template = "rating/2"
) -> Iterator[Row]:
    """A pair for each event of a data set, in its order, or for `limit` of them. Raises ConfigError without titles."""
    return _rated(_facts(data, cfg.personas, cfg.width), cfg, template, slice(None))


@dataclasses.dataclass(frozen=True)
class Known:
    """What pairs of a data set are made of; words_of: the words of each item."""

    data: InteractionSet
    facts: list[ItemFacts]
    people: list[Interest]
    words_of: list[frozenset[str]]


@functools.lru_cache(maxsize=1)  # a worker makes many runs of one set, one after the other
def _known(name: str, personas: PersonasConfig, width: int) -> Known:
    return _facts(read(DataConfig(name)), personas, width)


def _facts(data: InteractionSet, personas: PersonasConfig, width: int) -> Known:
    if data.items.title is None:
        raise ConfigError(f"{data.name} has no titles: there is nothing to explain by their names")
    facts = [item_facts(data.items, item) for item in range(data.interactions.n_items)]
    words_of = [frozenset(words(" ".join([f.category, *f.features, f.title]))) for f in facts]
    return Known(data, facts, interests(data, personas, width), words_of)


def _rated(known: Known, cfg: PairsConfig, template: Template, part: slice) -> Iterator[Row]:
    data, facts, people, words_of = known.data, known.facts, known.people, known.words_of
    events = data.interactions
    chosen = np.arange(len(events))
    if cfg.limit:
        chosen = np.sort(np.random.default_rng(cfg.seed).permutation(chosen)[: cfg.limit])
    for t in chosen[part].tolist():
        item, person = facts[events.item_T[t]], people[events.user_T[t]]
        if not item.title:
            continue  # an item of the catalogue that nobody gave a name
        rating = None if events.rating_T is None else float(events.rating_T[t])
        met = [word for word in person.keywords if word in words_of[events.item_T[t]]]
        named = [*met, *(word for word in person.keywords if word not in met)][:NAMED]
        if template == "query/1" and rating is not None and rating < FITTING:
            continue  # what somebody did not like is no answer to what they look for
        prompt, completion = _asked_and_said(item, person, rating, named, template)
        yield {
            "prompt": prompt,
            "completion": completion,
            "rating": rating,
            "persona": person.persona,
            "keywords": list(person.keywords),
            "title": item.title,
            "category": item.category,
            "features": list(item.features),
            "attributes": list(item.attributes),
            "user": events.users[events.user_T[t]],
            "item": events.items[events.item_T[t]],
            "template": template,
            "source": data.name,
        }


def _asked_and_said(
    item: ItemFacts, person: Interest, rating: float | None, named: list[str], template: Template
) -> tuple[str, str]:
    """Prompt and answer of one event. query/1: somebody asks for what they like, and is told of the item."""
    if template == "query/1":
        told = metadata(item.category, item.features, rating)
        said = template_reason(item.title, named, item.category, item.features)
        return query_prompt(join_words(named) or item.category, item.title, told), f" {said}"
    prompt = rating_prompt(
        person.persona, item.title, item.category, rating, item.features, template
    )
    return prompt, rating_response(rating, named, item.category, item.features[:NAMED])


def item_facts(items: Items, item: int) -> ItemFacts:
    """Title, kind and features of an item: its other categories, brand and year, else words of what is told of it."""
    title = items.title[item] if items.title else ""
    kinds = items.category[item] if items.category else ()
    brand = items.brand[item] if items.brand else ""
    year = items.year[item] if items.year else ""
    # a path of categories ends with the closest one, and a list of genres begins with no better one than it ends with
    category = kinds[-1] if kinds else "item"
    features = [*kinds[:-1], *([f"the {brand} brand"] if brand else [])]
    features += [f"a release of {year}"] if year else []
    attributes = (*kinds, *features[len(kinds[:-1]) :])
    if not features:
        told = items.description[item] if items.description else ""
        features = list(dict.fromkeys([*words(told)[:40], *words(title)]))[:NAMED] or [title]
    return ItemFacts(title, category, tuple(features), attributes)


def interests(data: InteractionSet, config: PersonasConfig, width: int = 32) -> list[Interest]:
    """Everybody's persona: the cluster of those with a like taste, told by its words, and their own favourite kinds.

    People are the mean of their items' TF-IDF vectors, reduced to `width` numbers (latent semantic analysis, Deerwester
    1990); clusters by `people.personas`.
    """
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    events, texts = data.interactions, data.items.texts()
    tfidf_IW = TfidfVectorizer(analyzer=words).fit_transform(texts)
    width = min(width, min(tfidf_IW.shape) - 1)
    items_IE = TruncatedSVD(width, random_state=config.seed).fit_transform(tfidf_IW)
    ones = np.ones(len(events), np.float32)
    taken_UI = csr_matrix(
        (ones, (events.user_T, events.item_T)), shape=(events.n_users, events.n_items)
    )
    count_U1 = np.maximum(np.asarray(taken_UI.sum(1)), 1)
    vectors_UE = (taken_UI @ items_IE) / count_U1
    kinds_I = data.items.category or ()
    if len({kind for kinds in kinds_I for kind in kinds}) >= KINDS:
        texts = [" ".join(kinds) for kinds in kinds_I]
    personas = fit_personas(vectors_UE, _said(data, texts), config)
    cluster_U = personas.assign(vectors_UE)
    favourites = _favourites(data, taken_UI)
    made = []
    for cluster, kinds in zip(cluster_U.tolist(), favourites, strict=True):
        label = personas.labels[cluster]
        text = label + (f"; often chooses {join_words(kinds)}" if kinds else "")
        own = [word for kind in kinds for word in words(kind)]
        made.append(Interest(text, tuple(dict.fromkeys([*own, *words(label)[1:]]))))
    return made


def _said(data: InteractionSet, texts: list[str]) -> Iterator[tuple[int, str]]:
    """What each person took, in the items' words, and what they wrote of it. A pair once, whatever its events."""
    events = data.interactions
    pairs = np.unique(np.stack([events.user_T, events.item_T], 1), axis=0)
    for user, item in pairs.tolist():
        yield user, texts[item]
    if data.reviews is not None:
        for user, text in zip(events.user_T.tolist(), data.reviews.text, strict=True):
            yield user, text


def _favourites(data: InteractionSet, taken_UI: Any, many: int = 3) -> list[list[str]]:
    """The kinds of item that each person took more of than others do, the most telling first; none without kinds."""
    from scipy.sparse import csr_matrix

    if not data.items.category:
        return [[] for _ in range(taken_UI.shape[0])]
    names = sorted({kind for kinds in data.items.category for kind in kinds})
    place = {name: n for n, name in enumerate(names)}
    cells = [(i, place[kind]) for i, kinds in enumerate(data.items.category) for kind in kinds]
    item, kind = np.array(cells).T
    kinds_IC = csr_matrix(
        (np.ones(len(cells), np.float32), (item, kind)), shape=(taken_UI.shape[1], len(names))
    )
    made: list[list[str]] = []
    everybody_C = np.asarray((taken_UI @ kinds_IC).sum(0)).ravel()
    share_C = everybody_C / max(everybody_C.sum(), 1)
    for start in range(0, taken_UI.shape[0], 1024):
        count_BC = (taken_UI[start : start + 1024] @ kinds_IC).toarray()
        own_BC = count_BC / np.maximum(count_BC.sum(1, keepdims=True), 1)
        # the share of one's own choices above everybody's: being rare or common does not win by itself
        gain_BC = np.where(count_BC > 0, own_BC - share_C[None], -np.inf)
        best_BK = np.argsort(-gain_BC, axis=1, kind="stable")[:, :many]
        for row, best in enumerate(best_BK):
            made.append([names[c] for c in best if gain_BC[row, c] > 0])
    return made


# ---------------------------------------------------------------------------------- XRec


def explained_rows(part: str = "") -> Iterator[Row]:
    """XRec's rows as answers to query/1: the reader's profile asks, the book's profile is the metadata."""
    for row in explanations.read_explained(part=part):
        yield {
            "prompt": query_prompt(row.user_summary, row.title, row.item_summary),
            "completion": f" {row.explanation}",
            "rating": None,
            "persona": row.user_summary,
            "keywords": list(dict.fromkeys(words(row.user_summary))),
            "title": row.title,
            "category": "Books",
            "features": list(dict.fromkeys(words(row.item_summary))),
            "attributes": [],
            "user": row.user.removeprefix(f"{explanations.XREC}:"),
            "item": row.item,
            "template": "query/1",
            "source": explanations.XREC,
        }


if __name__ == "__main__":
    from jaxrec.rewards import (
        instruction_pairs,
    )  # workers find its functions by this name; `__main__` is another program there

    config.run(instruction_pairs.main, instruction_pairs.PairsConfig, __doc__)
