"""Judgements by people: who gave which label to which text. LeWiDi files (2023, 2025) or any CSV, by path.

A new data set is a new config: paths, and for a CSV the names of its columns. Items are told apart by their *text*, so
that the same text under two ids can't stand on both sides of a split. Rows that can't be read are skipped, counted by
reason and shown; nothing is repaired by guessing.
"""

import csv
import dataclasses
import gzip
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrec.config import RunError
from jaxrec.data.readers.headers import plain

# What people call their columns, in the order in which they are preferred.
COLUMNS = {
    "person": "person person_id user user_id annotator annotator_id worker worker_id rater rater_id judge reviewer "
    "customer customer_id participant respondent пользователь оценщик",
    "item": "item item_id instance_id text_id id post_id comment_id sentence_id product product_id",
    "text": "text sentence comment post message content review utterance title question текст отзыв",
    "label": "label rating score judgement judgment class grade stars answer vote value annotation sentiment "
    "оценка метка",
}
MOST_LABELS = 50  # more than these are a measurement or a free text, not a set of labels


class JudgementError(RunError, ValueError):
    """A data set that can't be used, and what to change."""


@dataclasses.dataclass(frozen=True)
class JudgementsConfig:
    """Where the judgements are. Relative paths are looked up here, then under $JAXREC_DATA.

    The columns are those of a CSV (or .tsv); several text columns are the parts of one item (a post and a reply).
    LeWiDi's JSON needs none. Files may be gzipped.
    """

    files: tuple[str, ...] = ()
    person: str = "person"
    item: str = "item"  # "": items are told apart by their text
    text: tuple[str, ...] = ("text",)
    label: str = "label"
    language: str = ""  # a CSV's column of languages; "": none


@dataclasses.dataclass(frozen=True)
class Judgements:
    """N judgements by U people on I items, as indices into the tuples of names."""

    person_N: np.ndarray
    item_N: np.ndarray
    label_N: np.ndarray
    people: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]  # of each item: its text, in one or more parts
    labels: tuple[str, ...]  # in numeric order where all are numbers
    language_I: np.ndarray  # index into `languages`
    languages: tuple[str, ...]  # ("",) where the data name none
    skipped: dict[str, int]

    def language_of_people(self) -> np.ndarray:
        """The language in which each person judged most."""
        count_UG = np.zeros((len(self.people), len(self.languages)), int)
        np.add.at(count_UG, (self.person_N, self.language_I[self.item_N]), 1)
        return count_UG.argmax(1)

    def summary(self) -> str:
        """Counts in a line or two, with what was skipped and why."""
        line = (
            f"{len(self.person_N):,} judgements by {len(self.people):,} people on {len(self.parts):,} items, "
            f"{len(self.labels)} labels"
        )
        if len(self.languages) > 1:
            line += f", {len(self.languages)} languages"
        for why, count in sorted(self.skipped.items()):
            line += f"\n  skipped {count:,}: {why}"
        return line


class _Raw(NamedTuple):
    person: str
    item: str
    parts: tuple[str, ...]
    label: str
    language: str


def read(cfg: JudgementsConfig) -> Judgements:
    """All judgements of all files.

    Raises JudgementError: no file given or found, a missing column, unreadable JSON, no row left, one label only, or
    more than 50 labels.
    """
    if not cfg.files:
        raise JudgementError("no data: set data.files to one or more CSV or LeWiDi JSON files")
    skipped: Counter[str] = Counter()
    rows: list[_Raw] = []
    for name in cfg.files:
        path = find(name)
        stem = path.name.removesuffix(".gz")
        if stem.endswith((".csv", ".tsv")):
            rows += _from_csv(path, cfg, _delimiter(path), skipped)
        elif stem.endswith(".json"):
            rows += _from_lewidi(path, skipped)
        else:
            raise JudgementError(f"{path}: expected .csv, .tsv or .json (also with .gz)")
    return _indexed(rows, skipped, cfg)


def find(name: str) -> Path:
    """The file itself, or the one under $JAXREC_DATA. Raises JudgementError where there is neither."""
    tried = [Path(name).expanduser()]
    if root := os.environ.get("JAXREC_DATA"):
        tried.append(Path(root) / name)
    for path in tried:
        if path.is_file():
            return path
    hint = "" if root else " (JAXREC_DATA, the folder of public data sets, is not set)"
    raise JudgementError(f"no such file: {' or '.join(map(str, tried))}{hint}")


def load_json(text: str) -> object:
    """JSON that may have a comma before a closing bracket, as some published annotator files do."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        # strings are matched first, so that a comma inside a text is left alone
        mend = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')
        return json.loads(mend.sub(lambda m: m.group(1) or "", text))


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise JudgementError(f"{path} can't be read: {error}") from None


def _from_csv(
    path: Path, cfg: JudgementsConfig, delimiter: str, skipped: Counter[str]
) -> Iterator[_Raw]:
    csv.field_size_limit(1 << 27)
    reader = csv.DictReader(io.StringIO(_text_of(path), newline=""), delimiter=delimiter)
    wanted = [name for name in (cfg.person, cfg.item, *cfg.text, cfg.label, cfg.language) if name]
    header = list(reader.fieldnames or ())
    if missing := [name for name in wanted if name not in header]:
        raise JudgementError(f"{path} has no column {missing[0]!r}; its columns are {header}")
    try:
        for row in reader:
            value = {name: (row[name] or "").strip() for name in wanted}
            parts = tuple(value[name] for name in cfg.text)
            language = value[cfg.language] if cfg.language else ""
            if None in row:
                skipped["more fields than columns"] += 1
            elif not all((value[cfg.person], value[cfg.label], "".join(parts))) or (
                cfg.item and not value[cfg.item]
            ):
                skipped["person, item, text or label is empty"] += 1
            else:
                item = value[cfg.item] if cfg.item else "\0".join(parts)
                yield _Raw(value[cfg.person], item, parts, value[cfg.label], language)
    except csv.Error as error:
        raise JudgementError(f"{path}, line {reader.line_num}: {error}") from None


def with_columns(cfg: JudgementsConfig) -> tuple[JudgementsConfig, list[str]]:
    """The config with columns that the first CSV has, and what was guessed, in sentences.

    A column that the config names and the file has stands. Others are told by the names that people give them
    (`COLUMNS`); without an item's column the text tells items apart. Raises JudgementError, with the header, where
    person, text or label can't be told.
    """
    tables = [name for name in cfg.files if not name.removesuffix(".gz").endswith(".json")]
    if not tables:
        return cfg, []
    path = find(tables[0])
    header = next(
        csv.reader(io.StringIO(_text_of(path), newline=""), delimiter=_delimiter(path)), []
    )
    named = {"person": cfg.person, "item": cfg.item, "label": cfg.label, "text": cfg.text[0]}
    used = {name for name in (*named.values(), *cfg.text, cfg.language) if name in header}
    guessed: dict[str, str] = {}
    for what, name in named.items():
        if name in header or not name:
            continue
        default = name == getattr(JudgementsConfig, what, "") or name == "text"
        free = [column for column in header if column not in used]
        known = [c for n in COLUMNS[what].split() for c in free if plain(c) == plain(n)]
        if not default or (not known and what != "item"):
            raise JudgementError(
                f"{path}: which column is the {what}? there are: {', '.join(header)}; name it by --{what}"
            )
        guessed[what] = known[0] if known else ""
        used.add(guessed[what])
    told = [f"{what} = {name!r}" for what, name in guessed.items() if name]
    said = [f"{path.name}: {', '.join(told)}"] if told else []
    if guessed.get("item") == "":
        said.append(f"{path.name}: no column of items: they are told apart by their text")
    text = (guessed.pop("text"),) if "text" in guessed else cfg.text
    return dataclasses.replace(cfg, text=text, **guessed), said


def _delimiter(path: Path) -> str:
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return "\t"
    first = _text_of(path).split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _from_lewidi(path: Path, skipped: Counter[str]) -> Iterator[_Raw]:
    try:
        items = load_json(_text_of(path))
    except json.JSONDecodeError as error:
        raise JudgementError(f"{path} is not JSON: {error}") from None
    if not isinstance(items, dict):
        raise JudgementError(
            f"{path} is not a LeWiDi file: expected an object with one entry an item"
        )
    for key, entry in items.items():
        if not isinstance(entry, dict) or not {"text", "annotations"} <= set(entry):
            skipped["item without text or annotations"] += 1
            continue
        parts = _parts_of(entry["text"])
        language = str(entry.get("lang", ""))
        for person, label in _annotations_of(entry, skipped):
            if person and label and any(parts):
                yield _Raw(person, f"{path.name}#{key}", parts, label, language)
            else:
                skipped["person, item, text or label is empty"] += 1


def _parts_of(text: object) -> tuple[str, ...]:
    """A text, an object of named texts, or such an object written as a string (ConvAbuse)."""
    if isinstance(text, str) and text.lstrip().startswith("{"):
        try:
            text = json.loads(text)
        except json.JSONDecodeError:
            pass  # a plain text that begins with a brace
    if isinstance(text, dict):
        return tuple(str(part).strip() for part in text.values())
    return (str(text).strip(),)


def _annotations_of(entry: dict, skipped: Counter[str]) -> list[tuple[str, str]]:
    """(person, label) pairs: a dict in 2025, two aligned strings with commas in 2023."""
    given = entry["annotations"]
    if isinstance(given, dict):
        return [(str(who).strip(), str(label).strip()) for who, label in given.items()]
    people = str(entry.get("annotators", "")).split(",")
    labels = str(given).split(",")
    if len(people) != len(labels):
        skipped["annotators and annotations of different number"] += 1
        return []
    return [(who.strip(), label.strip()) for who, label in zip(people, labels, strict=True)]


def _indexed(rows: list[_Raw], skipped: Counter[str], cfg: JudgementsConfig) -> Judgements:
    text_of: dict[str, tuple[str, ...]] = {}
    kept: dict[tuple[str, tuple], _Raw] = {}
    for row in rows:
        if text_of.setdefault(row.item, row.parts) != row.parts:
            skipped["its item has another text in an earlier row"] += 1
        elif kept.setdefault((row.person, (row.parts, row.language)), row) is not row:
            skipped["the same person has judged the same text before"] += 1
    rows = [row._replace(label=_plain_number(row.label)) for row in kept.values()]
    if not rows:
        raise JudgementError(f"no usable row in {', '.join(cfg.files)}: {dict(skipped)}")
    labels = tuple(sorted({row.label for row in rows}, key=_in_numeric_order))
    if len(labels) < 2:
        raise JudgementError(f"every label is {labels[0]!r}: there is nothing to predict")
    if len(labels) > MOST_LABELS:
        raise JudgementError(
            f"{len(labels)} different labels, such as {labels[:3]}: is that a label column?"
        )
    people = tuple(dict.fromkeys(row.person for row in rows))
    items = tuple(dict.fromkeys((row.parts, row.language) for row in rows))
    languages = tuple(sorted({row.language for row in rows}))
    at = lambda names: {name: i for i, name in enumerate(names)}
    person_at, item_at, label_at, language_at = map(at, (people, items, labels, languages))
    return Judgements(
        np.array([person_at[row.person] for row in rows]),
        np.array([item_at[row.parts, row.language] for row in rows]),
        np.array([label_at[row.label] for row in rows]),
        people,
        tuple(parts for parts, _ in items),
        labels,
        np.array([language_at[language] for _, language in items]),
        languages,
        dict(skipped),
    )


def _plain_number(label: str) -> str:
    """'1.0' and '1' are one label."""
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else str(number)


def _in_numeric_order(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), "")
    except ValueError:
        return (1, 0.0, label)
