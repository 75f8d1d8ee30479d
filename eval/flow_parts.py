"""What the flow is made of, for one data set: its events split, models fitted or taken from OUT, vectors, personas."""

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec.config import ConfigError
from jaxrec.data.histories import Histories, Holdout, Split, histories, leave_one_out
from jaxrec.data.interaction_sets import DataConfig, InteractionSet, read
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.people.persona_count import choose_k, plot_count
from jaxrec.people.personas import Personas, PersonasConfig, fit_personas
from jaxrec.people.profiles import Profiles
from jaxrec.people.reviews import ReviewColumns
from jaxrec.recommenders.deepmf import DeepMF, DeepMFConfig
from jaxrec.recommenders.flow import FlowParts
from jaxrec.recommenders.flow.fitting import fit_or_load, taste_of, text_vectors, trend
from jaxrec.recommenders.recommender import Recommender
from jaxrec.recommenders.sequential import Sequential, SequentialConfig
from jaxrec.retrieval.index import Index
from jaxrec.world.events import interaction_set
from jaxrec.world.shops import make_shops

SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PartsConfig:
    """Which data, which models. `choose_personas`: their number by elbow and silhouette, OUT/persona_count.png."""

    data: DataConfig = DataConfig(name="amazon18-gift-cards", duplicates="first")
    sample_world: bool = False  # the sample world's shops in place of `data`
    encoder: str = ""  # MiniLM; or a published name ("mpnet"), a folder, a hub id
    deepmf: DeepMFConfig = DeepMFConfig()  # not used where nobody rates
    sequential: SequentialConfig = SequentialConfig()
    personas: PersonasConfig = PersonasConfig()
    persona_from: Literal["taste", "deepmf"] = "taste"  # what people are clustered by
    choose_personas: bool = False
    cluster: str = ""  # a Ray cluster for profiles, vectors and the number of personas: auto, HOST:PORT, local:2
    out: str = "runs/genrec_flow"


@dataclasses.dataclass(frozen=True)
class World:
    """A data set as the flow meets it. `texts`: what the encoder reads of each item."""

    data: InteractionSet
    split: Split
    texts: tuple[str, ...]
    profiles: Profiles

    @property
    def rated(self) -> bool:
        """Whether there is anything that DeepMF could learn from."""
        return self.data.interactions.rating_T is not None

    def query_for(self, item: int) -> str:
        """Brand and last category of an item: the words with which somebody might ask for it."""
        items = self.data.items
        words = [
            items.brand[item] if items.brand else "",
            items.category[item][-1] if items.category and items.category[item] else "",
        ]
        return " ".join(word for word in words if word)

    def words_of_others(self, holdout: Holdout, seed: int) -> tuple[str, ...]:
        """What somebody else wrote of each row's item: summary and first sentence of one training review, drawn.

        "" where nobody else wrote of it. `query_for` knows the item's own brand and category, as nobody who asks does;
        this is in words that were chosen without it, by people who have it.
        """
        reviews, events, train = self.data.reviews, self.data.interactions, self.split.train
        if reviews is None:
            return ("",) * len(holdout)
        trained = set(zip(train.user_B[train.row_T].tolist(), train.item_T.tolist(), strict=True))
        said: dict[int, list[tuple[int, str]]] = {}
        pairs = zip(events.user_T.tolist(), events.item_T.tolist(), strict=True)
        for pair, text, summary in zip(pairs, reviews.text, reviews.summary, strict=True):
            words = " ".join(f"{summary} {SENTENCE.split(text.strip(), maxsplit=1)[0]}".split())
            if pair in trained and words:
                said.setdefault(pair[1], []).append((pair[0], words))
        rng, found = np.random.default_rng(seed), []
        users = holdout.histories.user_B.tolist()
        for user, item in zip(users, holdout.target_B.tolist(), strict=True):
            theirs = [words for other, words in said.get(item, ()) if other != user]
            found.append(theirs[int(rng.integers(len(theirs)))] if theirs else "")
        return tuple(found)


def read_world(cfg: PartsConfig) -> World:
    """Reads the data, splits it leave-one-out, and makes everybody's profile in one pass."""
    data = interaction_set(make_shops()) if cfg.sample_world else read(cfg.data)
    texts = data.items.texts()
    if not texts or data.items.title is None:
        raise ConfigError(
            f"{data.name} has no titles: the flow searches among what items are called"
        )
    split = leave_one_out(histories(data.interactions))
    columns = ReviewColumns(text=("summary", "review"))
    profiles = Profiles.build(event_table(data), columns, address=cfg.cluster)
    return World(data, split, tuple(texts), profiles)


def event_table(data: InteractionSet) -> Any:
    """The events as Arrow, people and items by their names, with the items' categories."""
    import pyarrow as pa

    events, table = data.interactions, data.arrow()
    columns = {name: table.column(name) for name in table.column_names}
    columns["user"] = pa.array(events.users).take(pa.array(events.user_T))
    columns["item"] = pa.array(events.items).take(pa.array(events.item_T))
    if data.items.category:
        kinds = pa.array([list(kind) for kind in data.items.category], pa.list_(pa.string()))
        columns["category"] = kinds.take(pa.array(events.item_T))
    return pa.table(columns)


def flow_parts(cfg: PartsConfig, world: World) -> FlowParts:
    """Encoder, index, rankers and personas; the rankers and vectors are taken from OUT where they were made before."""
    out, train = Path(cfg.out), world.split.train
    encode = SentenceEncoder.load(cfg.encoder or None)
    load = functools.partial(SentenceEncoder.load, cfg.encoder or None)
    vectors_ID = text_vectors(encode, cfg.encoder, world.texts, out, address=cfg.cluster, load=load)
    index = Index.build(vectors_ID)
    rankers: dict[str, Recommender] = {}
    if world.rated:
        rankers["deepmf"] = fit_or_load(out / "deepmf", DeepMF, cfg.deepmf, world.split)
    rankers["sequence"] = fit_or_load(out / "sequence", Sequential, cfg.sequential, world.split)
    person_vectors = person_vectors_of(cfg, rankers, vectors_ID)
    personas = personas_of(cfg, world, person_vectors(train))
    people = {name: row for row, name in enumerate(world.data.interactions.users)}
    return FlowParts(
        titles=world.data.items.title,
        encode=encode,
        search=index.search,
        vectors=index.vectors,
        people=people,
        histories=known_histories(world.split),
        popular_I=trend(train),
        rankers=rankers,
        personas=personas,
        person_vectors=person_vectors,
    )


def known_histories(split: Split) -> Histories:
    """Everybody's history without the item that the test asks for; whole where nothing is asked."""
    whole, asked = split.train, split.test.histories
    rows = [whole[row] for row in range(len(whole))]
    ratings = None if whole.rating_T is None else np.split(whole.rating_T, whole.start_B[1:-1])
    times = None if whole.time_T is None else np.split(whole.time_T, whole.start_B[1:-1])
    for row, user in enumerate(asked.user_B):
        part = slice(asked.start_B[row], asked.start_B[row + 1])
        rows[user] = asked.item_T[part]
        if ratings is not None:
            ratings[user] = asked.rating_T[part]
        if times is not None:
            times[user] = asked.time_T[part]
    return dataclasses.replace(
        whole,
        item_T=np.concatenate(rows),
        start_B=np.concatenate([[0], np.cumsum([len(row) for row in rows])]),
        rating_T=None if ratings is None else np.concatenate(ratings),
        time_T=None if times is None else np.concatenate(times),
    )


def person_vectors_of(
    cfg: PartsConfig, rankers: Mapping[str, Recommender], vectors_ID: np.ndarray
) -> Callable[[Histories], np.ndarray]:
    """The long-term mean of the text vectors of what a person took, or DeepMF's vector of them."""
    if cfg.persona_from == "deepmf":
        deepmf = rankers.get("deepmf")
        if deepmf is None:
            raise ConfigError("persona_from deepmf needs ratings, and nobody rates here: use taste")
        return lambda rows: deepmf.sides(rows)[:, : deepmf.config.shape.width]
    return taste_of(vectors_ID)


def personas_of(cfg: PartsConfig, world: World, vectors_UE: np.ndarray) -> Personas:
    """Personas of all people, told by their reviews, or where nobody wrote by the titles they took."""
    config, out = cfg.personas, Path(cfg.out)
    if cfg.choose_personas:
        count = choose_k(vectors_UE, config=config, address=cfg.cluster)
        plot_count(count, out / "persona_count.png")
        _log.info(
            "%d personas (elbow at %d): see %s", count.k, count.elbow, out / "persona_count.png"
        )
        config = dataclasses.replace(config, k=count.k)
    personas = fit_personas(vectors_UE, said(world), config)
    personas.save(out / "personas")
    return personas


def said(world: World) -> Iterator[tuple[int, str]]:
    """The titles of what each person took before the held-out events, and what they wrote of it."""
    train, reviews = world.split.train, world.data.reviews
    taken = list(zip(train.user_B[train.row_T].tolist(), train.item_T.tolist(), strict=True))
    for user, item in taken:
        yield user, world.data.items.title[item]
    if reviews is not None:
        events, trained = world.data.interactions, set(taken)
        pairs = zip(events.user_T.tolist(), events.item_T.tolist(), strict=True)
        for pair, text, summary in zip(pairs, reviews.text, reviews.summary, strict=True):
            if pair in trained:
                yield pair[0], f"{summary} {text}"
