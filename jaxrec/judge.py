"""What a person will say of a text: probabilities of labels, beside the average person's.

    python -m jaxrec.judge --model runs/judge --person P7 --text "a new text" "another one"
    python -m jaxrec.judge --model runs/judge --examples mine.csv --text "a new text"      somebody new
    python -m jaxrec.judge --model runs/judge                                              whom and what it knows

The model is what `train.judgements` saves. --examples is a CSV with a text and a label in each row.
"""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np

from jaxrec import config, processes
from jaxrec.config import ConfigError
from jaxrec.data.judgements import COLUMNS
from jaxrec.data.readers.headers import plain
from jaxrec.recommenders.judge import Judge

WIDTH = 12  # of a column of probabilities


@dataclasses.dataclass(frozen=True)
class AskConfig:
    """model: the folder, or the one that holds it as `model`. person: somebody that was learned from. examples: a CSV
    of texts and labels of somebody new. text: what is to be judged. json: an object a text."""

    model: str = ""
    person: str = ""
    examples: str = ""
    text: tuple[str, ...] = ()
    json: bool = False


def main(cfg: AskConfig) -> list[dict[str, object]]:
    """Prints, for each text, the probability of each label by the person, the average person and the text alone."""
    if not cfg.model:
        raise ConfigError("which model? --model FOLDER, from `train.judgements --out FOLDER`")
    if cfg.person and cfg.examples:
        raise ConfigError(
            "--person is somebody known, --examples make somebody new: one of the two"
        )

    processes.keep_programs()
    folder = Path(cfg.model).expanduser()
    judge = Judge.load(folder / "model" if (folder / "model").is_dir() else folder)
    if not cfg.text:
        some = ", ".join(judge.people[:8])
        print(f"labels: {', '.join(judge.labels)}")
        print(f"{len(judge.people):,} people: {some}{', ...' if len(judge.people) > 8 else ''}")
        print('ask: --person NAME --text "..."')
        return []
    ways = ways_of(cfg, judge)
    rows = []
    for place, text in enumerate(cfg.text):
        row = {
            name: dict(zip(judge.labels, map(float, p[place]), strict=True))
            for name, p in ways.items()
        }
        rows.append({"text": text, **row})
        print(
            json.dumps(rows[-1], ensure_ascii=False) if cfg.json else block(text, row, judge.labels)
        )
    return rows


def ways_of(cfg: AskConfig, judge: Judge) -> dict[str, np.ndarray]:
    """Probabilities by who judges: the person or whoever gave the examples, the average person, the text alone."""
    ways = {}
    if cfg.person:
        ways[cfg.person] = judge.predict(cfg.text, judge.person(cfg.person))
    if cfg.examples:
        texts, labels = examples(cfg.examples)
        p_E = judge.onboard(texts, labels)
        ways[f"new, {len(texts)} examples"] = judge.predict(cfg.text, p_E)
    ways["average person"] = judge.predict(cfg.text, judge.average)
    ways["text alone"] = judge.predict(cfg.text)
    return ways


def examples(path: str) -> tuple[list[str], list[str]]:
    """Texts and labels of a CSV. Raises ConfigError where it can't be read or holds neither."""
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            header = list(rows.fieldnames or ())
            text, label = (column(header, what, path) for what in ("text", "label"))
            found = [((row[text] or "").strip(), (row[label] or "").strip()) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--examples {path}: {error}") from None
    found = [(one, given) for one, given in found if one and given]
    if not found:
        raise ConfigError(f"--examples {path}: no row with a text and a label")
    return [one for one, _ in found], [given for _, given in found]


def column(header: list[str], what: str, path: str) -> str:
    """The column of texts or of labels, by its name."""
    known = [c for name in COLUMNS[what].split() for c in header if plain(c) == plain(name)]
    if not known:
        raise ConfigError(f"--examples {path}: no column of {what}s among {', '.join(header)}")
    return known[0]


def block(text: str, row: dict[str, dict[str, float]], labels: tuple[str, ...]) -> str:
    """One text as a small table."""
    wide = max(map(len, row)) + 2
    lines = [
        f"\n{text[:100]!r}",
        " " * wide + "".join(f"{label[: WIDTH - 2]:>{WIDTH}}" for label in labels),
    ]
    for name, p in row.items():
        best = max(p, key=lambda label: p[label])
        cells = "".join(f"{p[label]:>{WIDTH}.2f}" for label in labels)
        lines.append(f"{name:<{wide}}{cells}   -> {best}")
    return "\n".join(lines)


if __name__ == "__main__":
    config.run(main, AskConfig, __doc__)
