"""Floor 3: a model's tokenizer from its `tokenizer.json`, through `tokenizers`; chats as `transformers` writes them."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrec.data.text import tokenizer_hash
from jaxrec.hub.chat_template import Span, ends_of_answers, opens_answers, reads_parts, render
from jaxrec.hub.config import ModelError, ModelMissing
from jaxrec.words import without_halves

_BROKEN = "\ufdd0"  # where a text is cut before it is encoded: Unicode says that no text has this character
_RESERVED = re.compile(r"reserved|unused|extra_id|dummy|placeholder", re.IGNORECASE)


class Tokenizer:
    """Texts to token ids and back, and chats to texts. Half a character (a lone surrogate) is read as U+FFFD.

    `eos_ids` are all ids that end an answer (a chat model may have several); `pad_id` is 0 where none is named.
    """

    def __init__(self, folder: str | Path):
        """Reads a model folder. Raises ModelMissing without a tokenizer.json, ModelError when a file is damaged."""
        from tokenizers import Tokenizer as Rust

        self.folder = Path(folder)
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise ModelMissing(
                f"{path} is missing; a slow tokenizer must first be saved by transformers as a fast one"
            )
        try:
            self.rust = Rust.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(f"{path} is damaged: {error}") from error
        # files may carry the truncation of some training run: lengths are the caller's affair
        self.rust.no_truncation()
        self.rust.no_padding()
        self._settings = self._json("tokenizer_config.json")
        named = lambda key: _text(
            self._settings.get(key) or self._json("special_tokens_map.json").get(key)
        )
        self.special = {key: named(f"{key}_token") for key in ("bos", "eos", "pad", "unk")}
        self.bos_id, eos, pad = (self.id_of(self.special[key]) for key in ("bos", "eos", "pad"))
        listed = self._json("generation_config.json").get("eos_token_id", [])
        listed = listed if isinstance(listed, list) else [listed]
        self.eos_ids = tuple(dict.fromkeys([x for x in (eos, *listed) if x is not None]))
        self.pad_id = 0 if pad is None else pad

    def __len__(self) -> int:
        """One more than the largest id."""
        return max(self.rust.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def hash(self) -> str:
        """As `data.text.tokenizer_hash`."""
        return tokenizer_hash(self.rust.to_str())

    def id_of(self, token: str | None) -> int | None:
        """The id of a token written out, or None."""
        return None if token is None else self.rust.token_to_id(token)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text, with the tokens that the model wants around it when `special`."""
        return self.rust.encode(without_halves(text), add_special_tokens=special).ids

    def spare_ids(self, count: int) -> list[int]:
        """Ids that texts seldom or never hold: reserved tokens, then the last merges, which are the rarest."""
        added = self.rust.get_added_tokens_decoder()
        named = sorted(i for i, token in added.items() if _RESERVED.search(token.content))
        kept = {
            *added,
            *self.answer_ends,
            self.pad_id,
            self.bos_id,
            self.id_of(self.special["unk"]),
        }
        # Byte-pair merges have rising ids in the order in which they were learned: the last are the rarest.
        plain = sorted(set(self.rust.get_vocab(with_added_tokens=False).values()) - kept)
        return [*named[:count], *plain[::-1]][:count]

    def encode_spans(self, said: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, nothing added, and which characters (start, stop) each stands for.

        A special token that is spelled out is that token, unless the text went through `as_letters`.
        """
        # Parts are encoded one by one, so no token crosses a break, and a special token that was broken stays letters.
        ids, places, at = [], [], 0
        for part in without_halves(said).split(_BROKEN):
            encoded = self.rust.encode(part, add_special_tokens=False)
            ids += encoded.ids
            places += [(start + at, stop + at) for start, stop in encoded.offsets]
            at += len(part) + len(_BROKEN)
        return ids, places

    def as_letters(self, said: str) -> str:
        """A stranger's text for `encode_spans`: the special tokens that it spells out are only letters there."""
        if self._specials is None:
            return said
        return self._specials.sub(lambda found: f"{found[0][0]}{_BROKEN}{found[0][1:]}", said)

    @functools.cached_property
    def _specials(self) -> re.Pattern | None:
        added = self.rust.get_added_tokens_decoder().values()
        names = sorted((t.content for t in added if t.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names))) if names else None

    @functools.cached_property
    def spelled_marks(self) -> tuple[str, ...]:
        """The tokens that stand for no text when they are spelled out: special ones, and marks such as <tool_call>."""
        added = self.rust.get_added_tokens_decoder().values()
        mark = lambda said: len(said) > 2 and said[0] in "<[＜" and said[-1] in ">]＞"
        return tuple(t.content for t in added if t.special or mark(t.content))

    @functools.cached_property
    def own_limit(self) -> int | None:
        """The tokens after which the model's authors cut a text (`max_seq_length` of a sentence encoder), or None."""
        limit = self._json("sentence_bert_config.json").get("max_seq_length")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ModelError(
                f"{self.folder / 'sentence_bert_config.json'} is damaged: max_seq_length is {limit!r}"
            )
        return limit

    def encode_all(
        self, texts: Sequence[str], special: bool = True, limit: int | None = None
    ) -> list[list[int]]:
        """The ids of many texts, in parallel; texts longer than `limit` tokens lose their end, not their last
        special token. Raises TypeError, naming the place, for what is no text."""
        return self.encode_cut(texts, limit, special)[0]

    def encode_cut(
        self, texts: Sequence[str], limit: int | None, special: bool = True
    ) -> tuple[list[list[int]], int]:
        """`encode_all`, and how many of the texts lost their end."""
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {place} is {text!r}: an empty text stands for a missing one")
        texts = [without_halves(text) for text in texts]
        if limit is not None:
            self.rust.enable_truncation(limit)
        try:
            encoded = self.rust.encode_batch_fast(texts, add_special_tokens=special)
        finally:
            self.rust.no_truncation()
        return [e.ids for e in encoded], sum(bool(e.overflowing) for e in encoded)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of ids; special tokens are left out unless asked for."""
        return self.rust.decode([int(i) for i in ids], skip_special_tokens=not special)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], answer_next: bool = True, **more: Any
    ) -> str:
        """The text of a chat in the model's own template; with the opening of an answer when `answer_next`.

        messages: {"role", "content"} in order, and what else the template reads. more: "tools", "documents", further
        variables of the template. Raises ValueError when the model has no template or the template refuses these.
        """
        return self.chat_spans(messages, answer_next, **more)[0]

    def chat_spans(
        self, messages: Sequence[Mapping[str, Any]], answer_next: bool = True, **more: Any
    ) -> tuple[str, list[Span]]:
        """`chat`, and which of its characters the template itself marks as the assistant's ({% generation %})."""
        template = self.template(tools=more.get("tools") is not None)
        if template is None:
            raise ValueError(f"{self.folder} has no chat template")
        try:
            return render(template, messages, answer_next, **self._named_tokens | more)
        except ValueError as error:
            raise ValueError(f"the chat template of {self.folder}: {error}") from error

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> list[int]:
        """The ids of a chat. The template writes the special tokens itself, so none are added."""
        return self.encode(self.chat(messages, **more), special=False)

    @property
    def has_template(self) -> bool:
        """Whether the model brings a chat template."""
        return self.template() is not None

    @functools.cached_property
    def answer_ends(self) -> tuple[int, ...]:
        """All ids that end an answer: `eos_ids`, and what the chat template writes behind one."""
        # no text is split into these
        added = {i: token.content for i, token in self.rust.get_added_tokens_decoder().items()}
        encode = lambda text: self.encode(text, special=False)
        closing = (
            ends_of_answers(self.chat, encode, added, self.reads_parts) if self.has_template else ()
        )
        return tuple(dict.fromkeys([*self.eos_ids, *closing]))

    @functools.cached_property
    def reads_parts(self) -> bool:
        """Whether the chat template reads contents only as lists of parts."""
        return reads_parts(self.chat)

    @functools.cached_property
    def opens_answers(self) -> bool:
        """Whether the chat template knows `add_generation_prompt`."""
        return opens_answers(self.chat)

    def template(self, tools: bool = False) -> str | None:
        """The chat template of the folder, or None; of several named ones the one for `tools` where they are given."""
        named = self._templates
        return named.get("tool_use", named.get("default")) if tools else named.get("default")

    @functools.cached_property
    def _templates(self) -> dict[str, str]:
        """By name, as transformers looks for them: files before tokenizer_config.json."""
        given = self._settings.get("chat_template")
        if isinstance(given, list):
            given = {one["name"]: one["template"] for one in given}
        found = given if isinstance(given, dict) else {"default": given} if given else {}
        files = {"default": self.folder / "chat_template.jinja"}
        more = sorted((self.folder / "additional_chat_templates").glob("*.jinja"))
        files |= {path.stem: path for path in more}
        read = {name: path.read_text("utf-8") for name, path in files.items() if path.is_file()}
        # A folder with chat_template.jinja is of the newer layout, in which tokenizer_config.json no longer counts.
        return read if "default" in read else found | read

    @functools.cached_property
    def _named_tokens(self) -> dict[str, str]:
        """Every token that the settings name (bos_token, ...): templates may print them."""
        named = {f"{key}_token": token for key, token in self.special.items()}
        named |= {
            key: _text(value)
            for key, value in self._settings.items()
            if key.endswith("_token") and isinstance(value, str | Mapping)
        }
        return {key: token for key, token in named.items() if token is not None}

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            told = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        except ValueError as error:  # UnicodeDecodeError is one
            raise ModelError(f"{path} is damaged: {error}") from error
        if not isinstance(told, dict):
            raise ModelError(f"{path} is damaged: it holds no object")
        return told


def pad(
    rows: Sequence[Sequence[int]], length: int | None = None, pad_id: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) [B, L] of ragged rows, padded at the right to `length` or the longest row."""
    length = max(map(len, rows), default=0) if length is None else length
    ids, mask = np.full((len(rows), length), pad_id, np.int32), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        if len(row) > length:
            raise ValueError(
                f"row {i} has {len(row)} tokens, more than the length {length} asked for"
            )
        ids[i, : len(row)], mask[i, : len(row)] = row, True
    return ids, mask


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, Mapping) else token
