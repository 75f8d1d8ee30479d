"""Floor 4: a fitted flow as a folder.

FOLDER/flow.json       version, settings, facts, notes; written last: a folder without it is no flow
FOLDER/shop.json       names of people and items, titles, categories, brands
FOLDER/events.npz      everybody's history, popularity, the neighbours of items
FOLDER/index/          vectors of items              FOLDER/words.sqlite    their words
FOLDER/personas/       groups of like taste          FOLDER/sequence.npz, sequential/   the sequence model
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec import config as configs
from jaxrec import files
from jaxrec.data.histories import Histories
from jaxrec.data.interaction_sets import Items
from jaxrec.people.personas import Personas
from jaxrec.people.preferences import preference_vectors
from jaxrec.recommenders.flow.fitting import VectorScores
from jaxrec.recommenders.flow.pipeline import FlowError, FlowParts, FlowSettings, Ranker
from jaxrec.recommenders.flow.shop import Shop
from jaxrec.recommenders.item_knn import ItemKNN
from jaxrec.retrieval.index import Index
from jaxrec.retrieval.lexical import LexicalIndex
from jaxrec.retrieval.query_cache import QueryCache, SqliteStore

VERSION = 1
_PEOPLE = ("item_T", "start_B", "user_B", "rating_T", "time_T")


def save(
    folder: Path,
    shop: Shop,
    parts: FlowParts,
    settings: FlowSettings,
    facts: dict[str, Any],
    notes: Sequence[str],
) -> None:
    """Writes all of it, whole or not at all.

    folder: what is written or replaced. shop, parts, settings: what the flow is made of. facts: what the fit has to
    tell. notes: what was chosen for want of something better, a line each.
    """
    with files.replace_folder(folder.expanduser()) as fresh:
        _write(fresh, shop, parts, settings, facts, notes)


def _write(
    fresh: Path,
    shop: Shop,
    parts: FlowParts,
    settings: FlowSettings,
    facts: dict[str, Any],
    notes: Sequence[str],
) -> None:
    columns = {f.name: getattr(shop.items, f.name) for f in dataclasses.fields(Items)}
    names = {"users": shop.users, "ids": shop.ids, "items": columns}
    files.write_json(fresh / "shop.json", names, None, ensure_ascii=False)
    arrays = {name: getattr(shop.histories, name) for name in _PEOPLE}
    arrays["popular_I"] = shop.popular_I
    neighbours = parts.rankers.get("neighbours")
    if isinstance(neighbours, ItemKNN):
        arrays |= {f"neighbours/{key}": x for key, x in neighbours.arrays().items()}
    np.savez(fresh / "events.npz", **{key: x for key, x in arrays.items() if x is not None})
    vectors_ID = parts.vectors(np.arange(len(shop.ids)))
    Index.build(vectors_ID).save(fresh / "index")
    if parts.match is not None:
        LexicalIndex.build(shop.items.texts(), fresh / "words.sqlite").close()
    if parts.personas is not None:
        parts.personas.save(fresh / "personas")
    sequence = parts.rankers.get("sequence")
    if isinstance(sequence, VectorScores):
        sequence.save(fresh / "sequence.npz")
        sequence.model.save(fresh / "sequential")
    told = {
        "version": VERSION,
        "name": shop.name,
        "encoder": facts.get("encoder", "") if parts.encode is not None else None,
        "settings": configs.to_dict(settings),
        "facts": facts,
        "notes": list(notes),
    }
    files.write_json(fresh / "flow.json", told, ensure_ascii=False)


def load(
    folder: Path,
) -> tuple[Shop, FlowParts, FlowSettings, dict[str, Any], list[str]]:
    """What `save` wrote. Raises FlowError where there is no flow, or one that another version wrote."""
    told = read_facts(folder)
    folder = files.whole_folder(folder.expanduser(), "flow.json")
    try:
        names = json.loads((folder / "shop.json").read_text("utf-8"))
        with np.load(folder / "events.npz") as saved:
            arrays = {key: saved[key] for key in saved.files}
        index = Index.load(folder / "index", verify=False)
    except (OSError, ValueError, KeyError) as error:
        raise FlowError(f"{folder} is damaged ({error}): fit it again") from None
    items = Items(
        **{
            name: None if column is None else tuple(_hashable(cell) for cell in column)
            for name, column in names["items"].items()
        }
    )
    users, ids = tuple(names["users"]), tuple(names["ids"])
    rows = Histories(
        **{name: arrays.get(name) for name in _PEOPLE}, n_users=len(users), n_items=len(ids)
    )
    shop = Shop(told["name"], users, ids, items, rows, arrays["popular_I"])
    rankers: dict[str, Ranker] = {}
    own = {key.split("/")[1]: x for key, x in arrays.items() if key.startswith("neighbours/")}
    if own:
        rankers["neighbours"] = ItemKNN.of(own)
    if (folder / "sequence.npz").is_file():
        load_model = lambda: _sequence_model(folder / "sequential")
        rankers["sequence"] = VectorScores.load(folder / "sequence.npz", load_model)
    personas = Personas.load(folder / "personas") if (folder / "personas").is_dir() else None
    words = folder / "words.sqlite"
    parts = FlowParts(
        titles=shop.titles,
        encode=None if told["encoder"] is None else _encoder(told["encoder"], folder, index.dim),
        search=index.search,
        vectors=index.vectors,
        people=shop.people,
        histories=rows,
        popular_I=shop.popular_I,
        rankers=rankers,
        personas=personas,
        person_vectors=_taste(index) if personas else None,
        match=LexicalIndex.load(words).search if words.is_file() else None,
    )
    settings = configs.from_dict(FlowSettings, told["settings"])
    return shop, parts, settings, told["facts"], told["notes"]


def read_facts(folder: Path) -> dict[str, Any]:
    """flow.json. Raises FlowError where there is none, or of another version."""
    whole = files.whole_folder(folder.expanduser(), "flow.json")
    if whole is None:
        raise FlowError(f"there is no fitted shop in {folder}")
    path = whole / "flow.json"
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FlowError(f"{path} is damaged ({error}): fit the shop again") from None
    if told.get("version") != VERSION:
        raise FlowError(f"{folder} was written by another version of jaxrec: fit the shop again")
    return told


def _encoder(name: str, folder: Path, dim: int) -> Any:
    """Queries to vectors: those asked before from a file, others by the encoder, loaded for the first of them."""
    cache_of = QueryCache(SqliteStore(folder / "queries.sqlite"), name or "MiniLM", dim)

    @cache
    def model() -> Any:
        from jaxrec.recommenders.flow.making import encoder_of

        return encoder_of(name)

    return lambda texts: cache_of.embed(texts, lambda lost: model()(list(lost)))


def _taste(index: Index) -> Any:
    """The long-term taste of rows, from the vectors of their own items alone."""

    def taste(rows: Histories) -> np.ndarray:
        own = dataclasses.replace(rows, item_T=np.arange(len(rows.item_T)))
        return preference_vectors(own, index.vectors(rows.item_T)).long_BE

    return taste


def _sequence_model(folder: Path) -> Any:
    from jaxrec.recommenders.sequential import Sequential

    return Sequential.load(folder)


def _hashable(cell: Any) -> Any:
    return tuple(cell) if isinstance(cell, list) else cell
