"""Floor 4: a flow from a data set: the parts that the data allow, fitted, and weights; what is left out is noted."""

import contextlib
import dataclasses
import functools
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.data.histories import Histories, Split, histories, leave_one_out
from jaxrec.data.interaction_sets import InteractionSet
from jaxrec.people.words import taken_terms
from jaxrec.recommenders.flow import fitting
from jaxrec.recommenders.flow.fitting import FlowConfig, VectorScores
from jaxrec.recommenders.flow.pipeline import FlowParts, FlowSettings, Ranker
from jaxrec.recommenders.flow.shop import Shop
from jaxrec.recommenders.item_knn import ItemKNN
from jaxrec.recommenders.recommender import NothingToLearn
from jaxrec.retrieval.index import Index
from jaxrec.retrieval.lexical import LexicalIndex

OTHER_SCRIPTS = 0.2  # of the letters of all titles, from which a Latin encoder is not asked
STEPS = 20_000  # of the sequence model at most
BLOCK = 4096  # people whose vectors are made at once


class Ingredients(NamedTuple):
    """What `Flow` is made of."""

    shop: Shop
    parts: FlowParts
    settings: FlowSettings
    facts: dict[str, Any]
    notes: list[str]


class Text(NamedTuple):
    """How items are found by text: an encoder with all vectors, the words, either or neither."""

    encode: Any
    vectors_ID: np.ndarray | None
    match: LexicalIndex | None


def make(
    data: InteractionSet, config: FlowConfig, work: str | Path | None, progress: bool
) -> Ingredients:
    """Everything that a flow needs; see `Flow.fit`.

    data: events, and what is known of the items. config: settings of all parts. work: a folder from which a fit
    that was stopped goes on, None: a temporary one. progress: bars on stderr. Raises NothingToLearn without events.
    """
    if not len(data.interactions):
        raise NothingToLearn(f"{data.name} holds no event")
    if work is None:
        with tempfile.TemporaryDirectory() as folder:
            return make(data, config, folder, progress)
    work, notes = Path(work), []
    events, whole = data.interactions, histories(data.interactions)
    split = leave_one_out(whole)
    text = _text(data, config, work, progress, notes)
    knn = _neighbours(whole, config, notes)
    vectors_ID = text.vectors_ID
    if vectors_ID is None:
        vectors_ID = knn.item_vectors() if knn else np.zeros((whole.n_items, 1), np.float32)
    taste = fitting.taste_of(vectors_ID)
    terms = list(taken_terms(whole, data.items))
    personas = None  # groups that no word describes say nothing
    if terms:
        personas = fitting.personas_of(taste(whole), terms, config.personas, config.persona_people)
    index = Index.build(vectors_ID)
    shop = Shop(data.name, events.users, events.items, data.items, whole, fitting.trend(whole))
    parts = FlowParts(
        titles=shop.titles,
        encode=text.encode,
        search=index.search,
        vectors=index.vectors,
        people=shop.people,
        histories=whole,
        popular_I=shop.popular_I,
        personas=personas,
        person_vectors=taste if personas else None,
        match=text.match.search if text.match else None,
    )
    sequence = _sequence(split, config, work / "sequence", progress, bool(knn), notes)
    learned: dict[str, Ranker] = {}
    if knn:
        learned["neighbours"] = ItemKNN(config.neighbours).fit(split.train)
    if sequence:
        learned["sequence"] = sequence
    before = parts
    if (
        text.vectors_ID is None and learned
    ):  # vectors of who took what, which must not know what is held out
        index = Index.build(learned["neighbours"].item_vectors())
        before = dataclasses.replace(parts, search=index.search, vectors=index.vectors)
    # Weights are chosen with rankers that have not seen the held-out events; those that answer afterwards know all
    # of them.
    settings, facts = _tuned(before, learned, split, config, notes)
    rankers: dict[str, Ranker] = {"neighbours": knn} if knn else {}
    if sequence:
        rankers["sequence"] = _kept(sequence, whole)
    counts = {"events": len(events), "people": events.n_users, "items": events.n_items}
    counts["titles"] = sum(map(bool, data.items.title or ()))
    chosen = {"encoder": config.encoder, "parts": [*rankers, *(["personas"] if personas else [])]}
    parts = dataclasses.replace(parts, rankers=rankers)
    return Ingredients(shop, parts, settings, counts | chosen | facts, notes)


def encoder_of(name: str) -> Any:
    """The sentence encoder that a config names. Raises ModelMissing where its weights are not installed."""
    from jaxrec import processes
    from jaxrec.models.text.sentence import SentenceEncoder

    processes.keep_programs()
    return SentenceEncoder.load(name or None)


# ------------------------------------------------------------------------------------------ inside


def _text(
    data: InteractionSet, config: FlowConfig, work: Path, progress: bool, notes: list[str]
) -> Text:
    texts = data.items.texts() if data.items.title else []
    if not any(map(str.strip, texts)):
        notes.append("there are no titles: no search by text, items are shown by their ids")
        return Text(None, None, None)
    bare = sum(not title for title in data.items.title)
    if bare:
        notes.append(f"{bare:,} of {len(texts):,} items have no title: they are shown by their ids")
    work.mkdir(parents=True, exist_ok=True)
    match = LexicalIndex.build(texts, work / "words.sqlite")
    encode = _encoder(config.encoder, texts, notes)
    if encode is None:
        return Text(None, None, match)
    vectors_ID = fitting.text_vectors(
        encode,
        config.encoder,
        texts,
        work,
        progress=progress,
        address=config.cluster,
        load=functools.partial(encoder_of, config.encoder),
    )
    return Text(encode, vectors_ID, match)


def _encoder(name: str, texts: list[str], notes: list[str]) -> Any:
    """The encoder that suits the titles; None, and a note, where they are sought by their words."""
    from jaxrec.hub.config import ModelMissing

    if name == "none":
        notes.append("titles are sought by their words alone (encoder none)")
        return None
    if not name and (share := _share_of_other_scripts(texts)) > OTHER_SCRIPTS:
        notes.append(
            f"{share:.0%} of the titles' letters are not Latin, which MiniLM does not read: titles are sought by "
            "their words (name an encoder that knows the language)"
        )
        return None
    try:
        return encoder_of(name)
    except ModelMissing as error:
        if name:
            raise
        notes.append(f"titles are sought by their words, not by meaning: {error}")
        return None


def _share_of_other_scripts(texts: list[str]) -> float:
    letters = [c for text in texts[:2000] for c in text if c.isalpha()]
    other = sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters if not c.isascii())
    return other / max(len(letters), 1)


def _neighbours(whole: Histories, config: FlowConfig, notes: list[str]) -> ItemKNN | None:
    pairs = np.unique(whole.row_T * np.int64(whole.n_items) + whole.item_T)
    several = int((np.bincount(pairs // whole.n_items) >= 2).sum())
    if several < 2:
        notes.append(
            "nobody took two different items: recommended by popularity"
            if not several
            else "only one person took two different items: recommended by popularity"
        )
        return None
    return ItemKNN(config.neighbours).fit(whole)


def _sequence(
    split: Split, config: FlowConfig, out: Path, progress: bool, together: bool, notes: list[str]
) -> Any:
    """The fitted sequence model, or None and a note. together: there is what is taken together."""
    people = len(split.valid)
    if config.sequence == "never":
        return None
    if people < config.sequence_people:
        if together:
            notes.append(
                f"{people} people have three events or more, a sequence model is fitted from "
                f"{config.sequence_people} on: recommended by what is taken together and by popularity"
            )
        return None
    from jaxrec.models.items.sequential import SASRecConfig
    from jaxrec.recommenders.sequential import Sequential, SequentialConfig
    from jaxrec.training.loop import LoopConfig

    cfg = config.sequential
    if cfg is None:
        events = max(len(split.train.item_T), 1)
        cfg = SequentialConfig(
            model=SASRecConfig(d_model=64, layers=2, heads=2, d_ff=256, max_length=50),
            epochs=int(np.clip(STEPS * 1536 // events, 2, 60)),
            loop=LoopConfig(
                monitor="N@10",
                mode="max",
                patience=5,
                log_every=100,
                save_every=500,
                seed=config.seed,
            ),
        )
    cfg = dataclasses.replace(cfg, loop=dataclasses.replace(cfg.loop, progress=progress))
    with contextlib.redirect_stdout(sys.stderr):
        return Sequential(cfg).fit(split.train, split.valid, out)


def _kept(sequence: Any, whole: Histories) -> VectorScores:
    """What the sequence model thinks of everybody's whole history."""
    rows = [np.arange(at, min(at + BLOCK, len(whole))) for at in range(0, len(whole), BLOCK)]
    people_UE = np.concatenate([sequence.encode(whole.take(part)) for part in rows])
    model: Callable[[], Any] = lambda: sequence
    return VectorScores(people_UE, sequence.item_vectors(), model)


def _tuned(
    parts: FlowParts,
    learned: dict[str, Ranker],
    split: Split,
    config: FlowConfig,
    notes: list[str],
) -> tuple[FlowSettings, dict[str, Any]]:
    """Settings with the weights for requests without a query, and what the held-out people say of them."""
    settings, valid = config.settings, split.valid
    if not learned:
        return settings, {}
    if len(valid) < config.tuned_people:
        notes.append(
            f"weights as given: they are chosen on {config.tuned_people} people or more with three events, not "
            f"{len(valid)}"
        )
        return settings, {}
    before = dataclasses.replace(
        parts, rankers=learned, histories=split.train, popular_I=fitting.trend(split.train)
    )
    drawn = np.random.default_rng(config.seed).permutation(len(valid))[: config.tuned_rows]
    rows = np.sort(drawn)
    start = settings.unasked or settings.weights
    weights = fitting.choose_weights(fitting.ask(before, settings, valid.take(rows)), start)
    # Chosen on the validation's items, and told of the test's.
    test = split.test.take(rows)
    places = fitting.ask(before, settings, test).places(weights)
    facts = {
        "held_out_people": len(test),
        "hit_10": float(np.mean([place < fitting.LIST for place in places])),
        "popular_hit_10": fitting.popular_hits(before.popular_I, test),
    }
    return dataclasses.replace(settings, unasked=weights), facts
