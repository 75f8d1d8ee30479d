"""Forgets a person or a tenant: profile, vectors, Deltas, kept features, chats, and every row with their name.

    python -m jaxrec.forget --user maria --folders runs --look          says what would go
    python -m jaxrec.forget --user maria --folders runs
    python -m jaxrec.forget --tenant corner_bakery --folders runs data/mine
    python -m jaxrec.forget --tenant corner_bakery --user maria         her data with this tenant alone

What went is printed with its place; everybody else's data stay as they are. Stopped, the same command goes on. Said at
the end: where the name still stands in other people's texts, which are theirs to change, and that shared weights which
were trained with somebody's data stay (docs/privacy.md says what they tell).
"""

import dataclasses
import json
from pathlib import Path

from jaxrec import config
from jaxrec.privacy.forget import Forgotten, forget
from jaxrec.privacy.whose import Who

_SHOWN = 20  # places in which the name still stands


@dataclasses.dataclass(frozen=True)
class ForgetConfig:
    """Who is forgotten, and where."""

    tenant: str = ""  # a tenant's key; with `user`: that tenant's user alone
    user: str = ""  # a person's name or number
    folders: tuple[str, ...] = ("runs",)  # searched with all that is in them
    look: bool = False  # change nothing, say what would go
    json: bool = False  # the report as one line of JSON


def main(cfg: ForgetConfig) -> Forgotten:
    """Forgets, prints what went and where; gives the report."""
    report = forget(Who(cfg.tenant, cfg.user), cfg.folders, cfg.look)
    if cfg.json:
        print(_as_json(report))
        return report
    for one in report.removed:
        count = f"{one.count:,} " if one.what.startswith("row") and "of" not in one.what else ""
        print(f"{_short(one.place)}: {count}{one.what}")
    would = "would be " if cfg.look else ""
    again = ", after an earlier run that was stopped" if report.resumed else ""
    print(
        f"{report.who}: {len(report.removed)} {would}removed{again}, {report.searched:,} files searched"
    )
    if report.still and not cfg.look:
        print("The name still stands in these files, in what is not theirs by any field or place:")
        for place, count in report.still[:_SHOWN]:
            print(f"  {_short(place)}: {count:,} times")
        if (more := len(report.still) - _SHOWN) > 0:
            print(f"  and in {more:,} more")
    print(
        "Weights that were trained with their data stay as they are: train again without them to undo that."
    )
    return report


def _short(place: Path) -> str:
    here = Path.cwd()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)


def _as_json(report: Forgotten) -> str:
    rows = [{"place": str(r.place), "what": r.what, "count": r.count} for r in report.removed]
    still = [{"place": str(place), "count": count} for place, count in report.still]
    told = {
        "who": dataclasses.asdict(report.who),
        "removed": rows,
        "still": still,
        "resumed": report.resumed,
    }
    return json.dumps(told | {"searched": report.searched}, ensure_ascii=False)


if __name__ == "__main__":
    config.run(main, ForgetConfig, __doc__)
