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
from pathlib import Path
from typing import Annotated

import tyro

from jaxrec import config
from jaxrec.config import ConfigError
from jaxrec.recommenders.flow import Flow, FlowConfig, Recommendations, open_shop
from jaxrec.recommenders.flow.keep import say_on_stderr

RULE = "-" * 100
TITLE = 70  # characters of a title that are printed


@dataclasses.dataclass(frozen=True)
class RecommendConfig:
    """Who asks for what, in which shop.

    events: who took what, a CSV or any published layout (file or folder). items: titles (categories, brands) by item.
    user: names of people as the events have them, one after the other. users: a file with one name a line.
    query: what they ask for, in words. k: how many items. why: with reasons. again: also what they have taken already.
    liked: ids of items that somebody who is not known likes. keep: the folder of the fitted shop. refit: fit anew.
    encoder: of titles and queries: a folder or hub id of a BERT or MPNet; "none": by words alone. json: an object a
    line. user_column and the others: names of the events' columns, where their headers don't tell.
    """

    events: str = ""
    items: str = ""
    user: tuple[str, ...] = ()
    users: str = ""
    query: str = ""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    why: bool = False
    again: bool = False
    liked: tuple[str, ...] = ()
    keep: str = ""
    refit: bool = False
    encoder: str = ""
    json: bool = False
    user_column: str = ""
    item_column: str = ""
    rating_column: str = ""
    time_column: str = ""


def main(cfg: RecommendConfig) -> list[Recommendations]:
    """Fits or loads, answers everybody, prints the lists, gives them. Raises ConfigError without events."""
    if not cfg.events:
        raise ConfigError("which events? --events FILE: a CSV of who took what")
    people = asking(cfg)
    flow = open_shop(
        cfg.events,
        cfg.items or None,
        keep=cfg.keep or None,
        refit=cfg.refit,
        config=FlowConfig(encoder=cfg.encoder),
        columns={
            "user": cfg.user_column,
            "item": cfg.item_column,
            "rating": cfg.rating_column,
            "time": cfg.time_column,
        },
        say=say_on_stderr,
    )
    lists = []
    for user in people:
        found = flow.recommend(
            user, cfg.query, cfg.k, why=cfg.why or cfg.json, again=cfg.again, liked=cfg.liked
        )
        print(json.dumps(record(found), ensure_ascii=False) if cfg.json else block(found, flow))
        lists.append(found)
    return lists


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
