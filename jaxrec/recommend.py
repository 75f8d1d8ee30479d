"""Recommendations for any shop: a file of who took what, one of titles, and who asks for what.

    python -m jaxrec.recommend --events my.csv --items titles.csv --user U1 --query "coffee for a friend" -k 10 --why
    python -m jaxrec.recommend --events my.csv --items titles.csv --users customers.txt --json > lists.jsonl
    python -m jaxrec.recommend --events my.csv                         # what is popular

The first call fits what it needs and keeps it (`--keep`, or a folder in ~/.cache/jaxrec/shops, which is printed); the
next one answers at once. Files that have changed are fitted again. The same from Python:

    from jaxrec.recommenders.flow import open_shop
    for one in open_shop("my.csv", "titles.csv").recommend("U1", query="coffee for a friend"):
        print(one.title, one.why)
"""

import dataclasses
import json
import logging
import os
import re
from pathlib import Path
from typing import Annotated

import tyro

from jaxrec import config
from jaxrec.config import ConfigError
from jaxrec.data.readers.raw import DataError
from jaxrec.dialogue.explanation import Complete, Reason
from jaxrec.recommenders.flow import Flow, FlowConfig, Recommendations, open_shop
from jaxrec.recommenders.flow.keep import say_on_stderr

RULE = "-" * 100
TITLE = 70  # characters of a title that are printed


@dataclasses.dataclass(frozen=True)
class RecommendConfig:
    """Who asks for what, in which shop."""

    events: str = (
        ""  # who took what: a CSV, JSON lines, Parquet or any published layout; a file or a folder
    )
    items: str = (
        ""  # titles (categories, brands) by item id; without: what the events tell of their items
    )
    user: tuple[str, ...] = ()  # one name or several, as the events have them
    users: str = ""  # a file with one name a line
    query: str = ""  # what they ask for, in words
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10  # how many items
    why: bool = False  # with reasons
    writer: str = ""  # a language model's folder or hub id (or an adapter's) that writes a sentence for each item
    again: bool = False  # also what they have taken already
    liked: tuple[str, ...] = ()  # ids of items that somebody who is not known likes
    keep: str = ""  # the folder of the fitted shop; without: one in ~/.cache/jaxrec/shops
    refit: bool = False  # fit anew, whatever is kept
    encoder: str = (
        ""  # of titles and queries: a folder or hub id of a BERT or MPNet; "none": words alone
    )
    json: bool = False  # a JSON object a line, with reasons
    cluster: str = (
        ""  # titles are embedded by a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, local:2
    )
    user_column: str = ""  # the events' columns by name (or by position from 0, without a header),
    item_column: str = ""  # where looking does not tell
    rating_column: str = ""  # "none": there is one, and it is not read
    time_column: str = ""
    items_id: str = ""  # the titles' columns by name
    items_title: str = ""
    encoding: str = ""  # of files that are not UTF-8, where looking does not tell: cp1251, latin-1


def main(cfg: RecommendConfig) -> list[Recommendations]:
    """Fits or loads, answers everybody, prints the lists, gives them. Raises ConfigError without events."""
    if not cfg.events:
        raise ConfigError("which events? --events FILE: a CSV of who took what")
    people = asking(cfg)
    try:
        flow = open_shop(
            cfg.events,
            cfg.items or None,
            keep=cfg.keep or None,
            refit=cfg.refit,
            config=FlowConfig(encoder=cfg.encoder, cluster=cfg.cluster),
            columns=columns_of(cfg),
            say=lambda line: say_on_stderr(own_flags(line)),
        )
    except DataError as error:
        raise DataError(own_flags(str(error))) from None
    write = writer_of(cfg) if cfg.writer else None
    lists = []
    for user in people:
        found = flow.recommend(
            user, cfg.query, cfg.k, why=cfg.why or cfg.json, again=cfg.again, liked=cfg.liked
        )
        if write is not None:
            found = written(found, flow.explain(found, write))
        print(json.dumps(record(found), ensure_ascii=False) if cfg.json else block(found, flow))
        lists.append(found)
    return lists


def writer_of(cfg: RecommendConfig) -> Complete:
    """The language model as a callable. Raises ModelError and others of `load_tuned` where there is none."""
    from jaxrec.models.language.tuned_folder import load_tuned
    from jaxrec.models.language.writing import PromptWriter

    return PromptWriter(load_tuned(cfg.writer), batch=cfg.k)


def written(found: Recommendations, reasons: list[Reason]) -> Recommendations:
    """A list with each item's sentence before its other reasons; a template's says why it stands there."""
    told = [r.text if r.by == "model" else f"{r.text} (by template: {r.why})" for r in reasons]
    ones = [
        dataclasses.replace(one, reasons=(text, *one.reasons))
        for one, text in zip(found, told, strict=True)
    ]
    return Recommendations(ones, found.user, found.query, found.persona, found.notes)


def columns_of(cfg: RecommendConfig) -> dict[str, str]:
    """The columns that flags name, as the reader of data sets calls them."""
    named = {what: getattr(cfg, f"{what}_column") for what in ("user", "item", "rating", "time")}
    return named | {what: getattr(cfg, what) for what in ("items_id", "items_title", "encoding")}


def own_flags(line: str) -> str:
    """What the reader of data sets says, with this command's flags in place of a configuration's fields."""
    line = re.sub(r"(--)?data\.(user|item|rating|time)\b", r"--\2-column", line)
    return re.sub(r"(--)?data\.(items[-_](id|title)|encoding)\b", r"--\2", line).replace(
        "name one as data.file", "name one of them as --events"
    )


def asking(cfg: RecommendConfig) -> list[str]:
    """The names of those who ask; one without a name where nobody is named. Raises ConfigError for a bad file."""
    names = list(cfg.user)
    if cfg.users:
        try:
            lines = Path(cfg.users).expanduser().read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--users {cfg.users}: {error}") from None
        names += [line.strip() for line in lines if line.strip()]
        if not names:
            raise ConfigError(f"--users {cfg.users}: there is no name in it")
    return list(dict.fromkeys(names)) or [""]


def block(found: Recommendations, flow: Flow) -> str:
    """One list as text: who asked, what is to be said, a line an item, its reasons below."""
    row = flow.shop.people.get(found.user)
    known = f"{flow.shop.histories.length_B[row]} events" if row is not None else "not known"
    who = f"{found.user} ({known})" if found.user else "somebody"
    lines = [RULE, f"for {who}" + (f", who asks {found.query[:60]!r}" if found.query else "")]
    lines += [f"taste: {found.persona}"] if found.persona else []
    lines += [f"note: {note}" for note in found.notes]
    width = min(max((len(one.title) for one in found), default=0), TITLE)
    for place, one in enumerate(found, 1):
        title = one.title if len(one.title) <= TITLE else one.title[: TITLE - 3] + "..."
        name = f"  {one.item}" if one.item != one.title else ""
        lines.append(f"{place:3d}  {title:{width}}  {one.score:+6.2f}{name}")
        lines += [f"       - {reason}" for reason in one.reasons]
    if not found:
        lines.append("  nothing is left to recommend: they have taken everything (--again)")
    return "\n".join(lines)


def record(found: Recommendations) -> dict[str, object]:
    """One list as plain values."""
    asked = {"user": found.user, "query": found.query, "persona": found.persona}
    return {**asked, "notes": list(found.notes), "items": [dataclasses.asdict(o) for o in found]}


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    config.run(main, RecommendConfig, __doc__)
