"""What the rows of a store are: a row of the source -> what is encoded -> token rows -> planes of numbers, and back.

    planes   [N, 2, L] int32 of packed rows:   token ids; marks = 2 x segment + (1 where the token is learned)
             [N, 4, L] int32 of pairs:         the chosen conversation's two planes, the rejected one's two

Mask, weights, segments and positions follow from the marks, so nothing is stored twice. A shard's rows are those that
the same reader makes of the shard's part of the source in memory: where one shard holds all of a file, all its rows.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from jaxrec.data import corpus, text
from jaxrec.data.chat import ChatError, OwnChat, PlainChat, TemplateChat
from jaxrec.data.instructions import Instruction, Skipped, TooLong, examples_of
from jaxrec.data.row_layouts import messages_of
from jaxrec.data.store.place import StoreError
from jaxrec.files import content_hash

Chat = OwnChat | PlainChat | TemplateChat
_PROBE = (
    ("system", "Be brief."), ("user", "Is it open?"), ("assistant", "Yes."), ("user", "Now?"), ("assistant", "No."),
)  # fmt: skip


@runtime_checkable
class RowKind(Protocol):
    """One kind of rows, as `writing` knows it."""

    name: str
    length: int

    def parse(self, where: str, row: Any) -> Any:
        """What a row of the source says. Raises ValueError, KeyError or TypeError, which name what is wrong."""

    def key(self, item: Any) -> str:
        """What decides whether it is held out: items of one key are held out together."""

    def line(self, item: Any, row: Any) -> str:
        """A held-out row as a line of JSON, of which the stage's own reader makes the same item again."""

    def encode(self, items: Sequence[Any], skipped: Skipped) -> Int[np.ndarray, "N F L"]:
        """The planes of all items; what is cut or left out is added to `skipped`."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """Documents and dialogues to pretrain on, packed and split as `train.pretrain` does."""

    tok: text.BytePairTokenizer
    length: int
    column: str = "text"  # of a table's rows
    name: str = "texts"

    def parse(self, where: str, row: Any) -> corpus.Document:
        """As `RowKind.parse`; `corpus` has made documents of its own sources already."""
        if not isinstance(row, Mapping):
            return row
        if "turns" in row:
            return corpus.document_of(dict(row))
        if self.column not in row:
            raise ValueError(f"no column {self.column!r} among {sorted(row)}: see --column")
        return corpus.document_of({"text": row[self.column]})

    def key(self, item: corpus.Document) -> str:
        """As `RowKind.key`."""
        return corpus.plain(item)

    def line(self, item: corpus.Document, row: Any) -> str:
        """As `RowKind.line`: `text`, or `turns`, whatever the columns were called."""
        turns = lambda: [{"role": role, "text": said} for role, said in item]
        return _json({"text": item} if isinstance(item, str) else {"turns": turns()})

    def encode(
        self, items: Sequence[corpus.Document], skipped: Skipped
    ) -> Int[np.ndarray, "N F L"]:
        """As `RowKind.encode`; nothing is left out."""
        return planes_of(text.pack(corpus.encode(self.tok, items), self.length, split=True))


@dataclasses.dataclass(frozen=True)
class Chats:
    """Conversations to fine-tune on, packed by falling length as `train.sft` does; `seed` shuffles equal lengths."""

    chat: Chat
    length: int
    learn: str = "all"
    too_long: TooLong = "left"
    seed: int = 0
    name: str = "chats"

    def parse(self, where: str, row: Any) -> Instruction:
        """As `RowKind.parse`."""
        return Instruction(messages_of(row), where)

    def key(self, item: Instruction) -> str:
        """The prompt alone, so that no held-out question is learned with another answer."""
        return repr(item.prompt)

    def line(self, item: Instruction, row: Any) -> str:
        """As `RowKind.line`: the row."""
        return _json(row)

    def encode(self, items: Sequence[Instruction], skipped: Skipped) -> Int[np.ndarray, "N F L"]:
        """As `RowKind.encode`."""
        found = list(
            examples_of(
                self.chat, items, self.length, skipped, learn=self.learn, too_long=self.too_long
            )
        )
        order = text.packing_order(found, self.seed) if found else []
        return planes_of(text.pack(order, self.length, self.chat.pad_id))


@dataclasses.dataclass(frozen=True)
class PairsOfAnswers:
    """Preferences, a pair a row, padded as `train.prefer` does."""

    chat: Chat
    length: int
    strict: bool = False
    name: str = "pairs"

    def parse(self, where: str, row: Any) -> Any:
        """As `RowKind.parse`."""
        from jaxrec.data.pairs import pair_of

        return pair_of(row, where)

    def key(self, item: Any) -> str:
        """The prompt."""
        return repr(item.prompt)

    def line(self, item: Any, row: Any) -> str:
        """As `RowKind.line`: the row."""
        return _json(row)

    def encode(self, items: Sequence[Any], skipped: Skipped) -> Int[np.ndarray, "N F L"]:
        """As `RowKind.encode`."""
        from jaxrec.data.pairs import fitted_pairs

        found = fitted_pairs(self.chat, items, self.length, self.strict, skipped)
        sides = [side for _, side in found]
        pad = lambda n: planes_of(text.pad([s[n] for s in sides], self.length, self.chat.pad_id))
        return np.concatenate([pad(0), pad(1)], axis=1)


def planes_of(rows: text.Rows) -> Int[np.ndarray, "N F L"]:
    """Token rows as two planes. Raises StoreError for a token that is learned in part: no reader makes such."""
    learned = rows["loss_BL"] > 0
    if not np.array_equal(rows["loss_BL"], learned.astype(np.float32)):
        raise StoreError("a token of a weight that is neither 0 nor 1 cannot be stored")
    marks = 2 * rows["segments_BL"] + learned
    return np.stack([rows["ids_BL"], marks], axis=1).astype(np.int32)


def rows_of(planes: Int[np.ndarray, "N 2 L"]) -> text.Rows:
    """The inverse of `planes_of`: the five arrays that `text.pack` and `text.pad` give."""
    ids_BL, marks_BL = planes[:, 0], planes[:, 1]
    segments_BL = marks_BL >> 1
    mask_BL = segments_BL > 0
    place_L = np.arange(ids_BL.shape[1], dtype=np.int32)
    begins_BL = np.diff(segments_BL, axis=1, prepend=0) != 0
    first_BL = np.maximum.accumulate(np.where(begins_BL, place_L, 0), axis=1)
    return {
        "ids_BL": np.ascontiguousarray(ids_BL),
        "mask_BL": mask_BL,
        "loss_BL": (marks_BL & 1).astype(np.float32),
        "segments_BL": segments_BL,
        "positions_BL": np.where(mask_BL, place_L - first_BL, 0).astype(np.int32),
    }


def writing_hash(chat: Chat | text.BytePairTokenizer) -> str:
    """A hash of how texts, and with a chat format conversations, become token ids.

    It covers the tokenizer's own file and, of a chat format, how it writes a conversation that tries its parts.
    """
    if isinstance(chat, text.BytePairTokenizer):
        return chat.hash
    try:
        tried = json.dumps(chat.example(_PROBE, "all"))
    except ChatError:  # no place for a system's word
        tried = json.dumps(chat.example(_PROBE[1:], "all"))
    return content_hash(chat.tok.hash, type(chat).__name__, tried)


def _json(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)
