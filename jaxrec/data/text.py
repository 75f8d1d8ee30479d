"""From text to token rows: a byte-level BPE, the chat format, packing, and length buckets. numpy only.

    <bos> <system> guide <page> page ... <user> question <assistant> answer <eos> <user> question <assistant> ...

Rows are dicts of numpy arrays whose keys are the fields of `structs.Tokens`, so `Tokens(**rows)` is a batch. Special
tokens are put in by id and never parsed out of text: a customer who writes "<eos>" writes five characters.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxrec.config import RunError
from jaxrec.data.permutation import Permutation
from jaxrec.files import content_hash

SPECIALS = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<user>",
    "<assistant>",
    "<mask>",
    "<system>",
    "<page>",
    "<tool>",
    "<sep>",
    *(f"<extra_{i}>" for i in range(6)),
)
ROLES = {
    "user": "<user>",
    "customer": "<user>",
    "assistant": "<assistant>",
    "system": "<system>",
    "tool": "<tool>",
}
Rows = dict[str, np.ndarray]
Turns = Iterable[tuple[str, str]]


class TextError(RunError, ValueError):
    """A tokenizer or a text that does not fit what is asked of it."""


class TokenizerMissing(RunError, FileNotFoundError):
    """A tokenizer.json that is not there."""


class Example(NamedTuple):
    """One token sequence; `loss[i]` is the weight of predicting token i from those before it."""

    ids: list[int]
    loss: list[float]


class BytePairTokenizer:
    """A byte-level BPE with `SPECIALS` at ids 0, 1, ...; what is encoded is always plain text.

    `special["<bos>"]` is an id; `size` counts the whole vocabulary.
    """

    def __init__(self, core):
        core.encode_special_tokens = True  # special tokens written in a text are text
        self._core = core
        self.size: int = core.get_vocab_size()
        self.special: Mapping[str, int] = {token: core.token_to_id(token) for token in SPECIALS}
        missing = [token for token, i in self.special.items() if i is None]
        if missing:
            raise TextError(
                f"tokenizer: no {', '.join(missing)} in its vocabulary; train it by train_tokenizer"
            )

    @property
    def hash(self) -> str:
        """As `tokenizer_hash`."""
        return tokenizer_hash(self._core.to_str())

    @classmethod
    def load(cls, path: str | Path) -> "BytePairTokenizer":
        """From a `tokenizer.json`."""
        from tokenizers import Tokenizer as Core

        if not Path(path).is_file():
            raise TokenizerMissing(f"tokenizer: there is no file {path}")
        return cls(Core.from_file(str(path)))

    @classmethod
    def of(cls, content: str) -> "BytePairTokenizer":
        """From the content of a `tokenizer.json`."""
        from tokenizers import Tokenizer as Core

        return cls(Core.from_str(content))

    def save(self, path: str | Path) -> None:
        """As a `tokenizer.json`, which `transformers` reads as well."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._core.save(str(path))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special token among them."""
        return self._core.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, in one call (several threads)."""
        return [row.ids for row in self._core.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """The text of these ids; special tokens are left out unless `keep_special`."""
        return self._core.decode([int(i) for i in ids], skip_special_tokens=not keep_special)


def tokenizer_hash(content: str) -> str:
    """The hash of a tokenizer.json, whatever its layout and the lengths that some earlier use left in it."""
    parts = json.loads(content)
    told = {key: value for key, value in parts.items() if key not in ("truncation", "padding")}
    return content_hash(json.dumps(told, sort_keys=True))


def train_tokenizer(texts: Iterable[str], size: int = 2048) -> BytePairTokenizer:
    """Byte-level BPE of exactly `size` tokens, specials and the 256 bytes included; the same texts give the same.

    Raises TextError where `size` has no room for a merge, or the texts have too few words to fill it.
    """
    from tokenizers import Tokenizer as Core
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if size <= len(SPECIALS) + 256:
        raise TextError(
            f"tokenizer: size {size} must be above {len(SPECIALS) + 256} (specials and bytes)"
        )
    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    if core.get_vocab_size() != size:
        raise TextError(
            f"tokenizer: the texts give only {core.get_vocab_size()} tokens of the {size} asked for"
        )
    return BytePairTokenizer(core)


# ------------------------------------------------------------------------------------------ one sequence


def document(tok: BytePairTokenizer, text: str) -> Example:
    """<bos> text <eos>, every token but the first predicted."""
    ids = [tok.special["<bos>"], *tok.encode(text), tok.special["<eos>"]]
    return Example(ids, [0.0] + [1.0] * (len(ids) - 1))


def prompt(
    tok: BytePairTokenizer, turns: Turns, guide: str = "", pages: Iterable[str] = ()
) -> list[int]:
    """Ids up to the point where the assistant speaks: the turns so far, then <assistant>.

    tok: the tokenizer. turns: (role, text). guide: what the assistant should know of itself, said first. pages: texts
    to answer from, after it.
    """
    return [*dialogue(tok, turns, guide, pages).ids, tok.special["<assistant>"]]


def dialogue(
    tok: BytePairTokenizer,
    turns: Turns,
    guide: str = "",
    pages: Iterable[str] = (),
    learn: str = "all",
) -> Example:
    """(role, text) turns in the chat format; what the assistant says, and its <eos>, is predicted.

    `learn`: "all" of the assistant's turns, or only its "last". Raises TextError for a role not in `ROLES`.
    tok, turns, guide, pages: as of `prompt`.
    """
    if learn not in ("all", "last"):
        raise TextError(f"dialogue: learn={learn!r} is neither 'all' nor 'last'")
    head = ([("<system>", guide)] if guide else []) + [("<page>", page) for page in pages]
    ids, loss = [tok.special["<bos>"]], [0.0]
    for mark, text in head:
        _append(ids, loss, [tok.special[mark], *tok.encode(text)], 0.0)
    start = len(ids)
    for role, text in turns:
        if role not in ROLES:
            raise TextError(f"dialogue: role {role!r} is not one of {sorted(ROLES)}")
        said = tok.encode(text)
        _append(ids, loss, [tok.special[ROLES[role]]], 0.0)
        if role == "assistant":
            if learn == "last":
                loss[start:] = [0.0] * (len(loss) - start)
            _append(ids, loss, [*said, tok.special["<eos>"]], 1.0)
        else:
            _append(ids, loss, said, 0.0)
    return Example(ids, loss)


def _append(ids: list[int], loss: list[float], new: list[int], weight: float) -> None:
    ids += new
    loss += [weight] * len(new)


# ---------------------------------------------------------------------------------------------- rows


def pad(
    examples: Sequence[Example], length: int | None = None, pad_id: int = 0, left: bool = False
) -> Rows:
    """One example a row, padded to `length` (by default the longest). Raises TextError for a longer example.

    examples: token sequences. pad_id: of the token that fills up. left: the padding comes first.
    """
    length = length or max(len(e.ids) for e in examples)
    _fits(examples, length)
    rows = _empty(len(examples), length, pad_id)
    for i, example in enumerate(examples):
        n = len(example.ids)
        _put(rows, i, length - n if left else 0, example, 1)
    return rows


def pack(examples: Sequence[Example], length: int, pad_id: int = 0, split: bool = False) -> Rows:
    """Several examples a row, best fit in the given order, each a segment of its own whose positions start at 0.

    A longer example is an error, or is `split` into pieces (documents): the first token of a piece is not predicted.

    examples: token sequences. length: of a row. pad_id: of the token that fills up.
    """
    if split:
        examples = [piece for e in examples for piece in _pieces(e, length)]
    _fits(examples, length)
    places, count = best_fit([len(e.ids) for e in examples], length)
    rows = _empty(count, length, pad_id)
    for example, (row, start, segment) in zip(examples, places, strict=True):
        _put(rows, row, start, example, segment)
    return rows


def packing_order(examples: Sequence[Example], seed: int = 0) -> list[Example]:
    """By falling length: the short ones then fill what the long ones leave (best fit decreasing).

    Those of one length are shuffled: neighbours in a file are often alike, and should not share a row.
    """
    shuffled = [examples[i] for i in Permutation(len(examples), seed)(np.arange(len(examples)))]
    return sorted(shuffled, key=lambda e: -len(e.ids))


def best_fit(lengths: Sequence[int], room: int) -> tuple[list[tuple[int, int, int]], int]:
    """([(row, start, segment from 1) of each length, taken in order], how many rows of `room` that takes).

    Each goes into the fullest row that has space for it. By falling length (best fit decreasing) little is left over.
    """
    with_room: list[list[int]] = [
        [] for _ in range(room + 1)
    ]  # free space -> rows that have just it
    places: list[tuple[int, int, int]] = []
    used: list[int] = []
    count: list[int] = []
    for n in lengths:
        free = next((r for r in range(n, room + 1) if with_room[r]), None)
        if free is None:
            row = len(used)
            used.append(0)
            count.append(0)
        else:
            row = with_room[free].pop()
        count[row] += 1
        places.append((row, used[row], count[row]))
        used[row] += n
        with_room[room - used[row]].append(row)
    return places, len(used)


def bucket(lengths: Sequence[int], sizes: Sequence[int]) -> dict[int, Int[np.ndarray, "N"]]:
    """size -> indices of the examples whose smallest fitting size it is; empty buckets are left out.

    Raises TextError, naming the first example, where one is longer than the largest size.
    """
    edges, lengths_N = np.sort(np.asarray(sizes)), np.asarray(lengths)
    over = np.flatnonzero(lengths_N > edges[-1])
    if len(over):
        raise TextError(
            f"bucket: example {over[0]} has {lengths_N[over[0]]} tokens, the largest size is {edges[-1]}"
        )
    which_N = np.searchsorted(edges, lengths_N)
    return {
        int(edge): np.flatnonzero(which_N == i)
        for i, edge in enumerate(edges)
        if (which_N == i).any()
    }


def _fits(examples: Sequence[Example], length: int) -> None:
    for i, example in enumerate(examples):
        if len(example.ids) > length:
            raise TextError(f"example {i} has {len(example.ids)} tokens, rows have {length}")


def _pieces(example: Example, length: int) -> list[Example]:
    pieces = []
    for start in range(0, len(example.ids), length):
        ids, loss = (part[start : start + length] for part in example)
        pieces.append(Example(ids, [0.0, *loss[1:]]))
    return pieces


def _empty(count: int, length: int, pad_id: int) -> Rows:
    return {
        "ids_BL": np.full((count, length), pad_id, np.int32),
        "mask_BL": np.zeros((count, length), bool),
        "loss_BL": np.zeros((count, length), np.float32),
        "segments_BL": np.zeros((count, length), np.int32),
        "positions_BL": np.zeros((count, length), np.int32),
    }


def _put(rows: Rows, row: int, start: int, example: Example, segment: int) -> None:
    at = slice(start, start + len(example.ids))
    rows["ids_BL"][row, at] = example.ids
    rows["mask_BL"][row, at] = True
    rows["loss_BL"][row, at] = example.loss
    rows["segments_BL"][row, at] = segment
    rows["positions_BL"][row, at] = np.arange(len(example.ids))
