"""Floor 3: the vocabulary of a GGUF file as the tokenizer files of a Hugging Face folder.

llama.cpp's `gpt2` is a byte-level BPE: its merges stand in the file, and the name of the rule (`tokenizer.ggml.pre`) by
which a text is split before. Its `llama` began as SentencePiece: pieces with scores, and what two neighbours make is
merged where it is a piece, the best score first; as a BPE that is a merge for each way to cut a piece in two.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxrec.files import write_json
from jaxrec.hub.config import ModelError
from jaxrec.hub.gguf_file import GgufHead
from jaxrec.hub.gguf_tokenizer import BYTE, CONTROL, NORMAL, SPLITS, UNKNOWN, UNUSED, USER_DEFINED

# The rule of GPT-2 as llama.cpp has it, and those of Tekken and GPT-4o as their makers wrote them.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+END|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*END|"
)
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = _CASED.replace("END", "") + r"\p{N}" + _REST
_GPT4O = _CASED.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"\p{N}{1,3}" + _REST
_BY_NAME = {name: rule for rule, name in SPLITS.items()}
_DIGITS, _BYTES = "digits", "bytes"  # each digit alone; GPT-2's rule and its letters for bytes
# rules of splitting, one after the other -> llama.cpp's names of them
_RULES = {
    (_BYTES,): "gpt-2 phi-2 gigachat jina-es jina-de roberta-bpe mpt olmo jais trillion granite-docling",
    (_DIGITS, _BYTES): "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    (_BY_NAME["qwen2"],): "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez solar-open",
    (_BY_NAME["llama-bpe"],): "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral dbrx smaug-bpe chatglm-bpe",
    (_TEKKEN,): "tekken",
    (_GPT4O,): "gpt-4o llama4",
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"): "deepseek-coder",
    (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"): "default",
}  # fmt: skip
_RULE_OF = {name: rules for rules, names in _RULES.items() for name in names.split()}
_WHOLE_WORDS = set("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral tekken".split())
_OPENS = _WHOLE_WORDS  # these rules begin a text with <bos> unless the file says otherwise
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def write_vocabulary(head: GgufHead, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a file, into `folder`.

    Raises ModelError for a kind of tokenizer, or a rule of splitting, that is unknown, and for damage.
    """
    vocabulary = _Vocabulary(head)
    kind = head.meta.get("tokenizer.ggml.model")
    made = {"gpt2": _byte_level, "llama": _pieces}
    if kind not in made:
        raise ModelError(
            f"{head.path}: a tokenizer of kind {kind!r} is not supported; {' and '.join(made)} are"
        )
    contents = made[kind](vocabulary)
    _check(head.path, contents)
    write_json(folder / "tokenizer.json", contents, indent=None, ensure_ascii=False)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {f"{key}_token": text for key, text in vocabulary.special.items()}
    template = head.meta.get("tokenizer.chat_template")
    more = head.meta.get("tokenizer.chat_templates", [])
    named = {name: head.meta.get(f"tokenizer.chat_template.{name}") for name in more}
    if any(named.values()):
        both = {"default": template} | named
        settings["chat_template"] = [{"name": k, "template": x} for k, x in both.items() if x]
    elif template:
        settings["chat_template"] = template
    write_json(folder / "tokenizer_config.json", settings, ensure_ascii=False)
    ends = [vocabulary.id_of(key) for key in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(i for i in ends if i is not None))
    if ends:
        write_json(folder / "generation_config.json", {"eos_token_id": ends})


class _Vocabulary:
    """What a file says of its tokens."""

    def __init__(self, head: GgufHead):
        self.path, self.meta = head.path, head.meta
        words = self.need("tokens")
        # llama.cpp names tokens without a text so, and fills a table that has more rows with unused ones.
        texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(words)]
        self.types = self.get("token_type", [NORMAL] * len(texts))[: len(texts)]
        if len(self.types) < len(texts):
            raise ModelError(
                f"{self.path} is damaged: {len(texts)} tokens, but types of {len(self.types)}"
            )
        is_filler = lambda i: self.types[i] == UNUSED and texts[i] == f"[PAD{i}]"
        self.texts = {i: text for i, text in enumerate(texts) if not is_filler(i)}
        self.ids = {text: i for i, text in self.texts.items()}
        if len(self.ids) != len(self.texts):
            raise ModelError(f"{self.path} is damaged: it has the same token several times")
        rows = head.tensors["token_embd.weight"].shape[0]
        if max(self.texts, default=0) >= rows:
            raise ModelError(
                f"{self.path}: the vocabulary has {max(self.texts) + 1} tokens, but the embedding only {rows} rows:"
                " they are not of the same model"
            )
        self.special = {
            key: self.texts[i] for key in _SPECIAL if (i := self.id_of(key)) is not None
        }

    def get(self, key: str, default: Any) -> Any:
        return self.meta.get(f"tokenizer.ggml.{key}", default)

    def need(self, key: str) -> Any:
        if f"tokenizer.ggml.{key}" not in self.meta:
            raise ModelError(f"{self.path} lacks the metadata tokenizer.ggml.{key}")
        return self.meta[f"tokenizer.ggml.{key}"]

    def id_of(self, key: str) -> int | None:
        """The id of a special token; where a file names none, SentencePiece's own."""
        own = {"unk": 0, "bos": 1, "eos": 2} if self.get("model", "") == "llama" else {}
        i = self.get(f"{_SPECIAL.get(key, key)}_token_id", own.get(key))
        return i if i in self.texts else None

    def added(self) -> list[dict[str, Any]]:
        """Tokens that are found in a text before it is split: control tokens, and those that users defined."""
        base = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        apart = (CONTROL, UNKNOWN, USER_DEFINED)
        return [
            {"id": i, "content": text, "special": self.types[i] != USER_DEFINED, **base}
            for i, text in self.texts.items()
            if self.types[i] in apart
        ]

    def around(self, opens: bool) -> dict[str, Any] | None:
        """What stands around each text: <bos> and <eos> as the file says, `opens` where it says nothing of <bos>."""
        rules = {"bos": self.get("add_bos_token", opens), "eos": self.get("add_eos_token", False)}
        there = {key: self.special[key] for key, x in rules.items() if x and key in self.special}
        if not there:
            return None
        text = lambda name: {"Sequence": {"id": name, "type_id": 0}}

        def token(key: str) -> list[dict[str, Any]]:
            return [{"SpecialToken": {"id": there[key], "type_id": 0}}] if key in there else []

        return {
            "type": "TemplateProcessing",
            "single": [*token("bos"), text("A"), *token("eos")],
            "pair": [text("A"), text("B")],
            "special_tokens": {
                x: {"id": x, "ids": [self.ids[x]], "tokens": [x]} for x in there.values()
            },
        }


def _tokenizer(vocabulary: _Vocabulary, model: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    base = {"version": "1.0", "truncation": None, "padding": None}
    bpe = {"type": "BPE", "dropout": None, "continuing_subword_prefix": None}
    bpe |= {"end_of_word_suffix": None, "vocab": vocabulary.ids, **model}
    return base | {"added_tokens": vocabulary.added()} | parts | {"model": bpe}


def _byte_level(vocabulary: _Vocabulary) -> dict[str, Any]:
    name = vocabulary.get("pre", "default")
    if name not in _RULE_OF:
        raise ModelError(
            f"{vocabulary.path}: the rule of splitting {name!r} (tokenizer.ggml.pre) is not supported; supported are"
            f" {', '.join(sorted(_RULE_OF))}"
        )
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    parts: list[dict[str, Any]] = []
    for rule in _RULE_OF[name]:
        if rule == _DIGITS:
            parts.append({"type": "Digits", "individual_digits": True})
        elif rule != _BYTES:
            split = {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated"}
            parts.append(split | {"invert": False})
    parts.append(letters | {"use_regex": _RULE_OF[name][-1] == _BYTES})
    # From the second letter on: a token may begin with the space that stands between two of them elsewhere.
    pairs = [(m, m.find(" ", 1)) for m in vocabulary.need("merges")]
    return _tokenizer(
        vocabulary,
        {
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": name in _WHOLE_WORDS,
            "merges": [[m[:at], m[at + 1 :]] for m, at in pairs],
        },
        normalizer=None,
        pre_tokenizer=parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts},
        post_processor=vocabulary.around(name in _OPENS),
        decoder=letters | {"use_regex": True},
    )


def _pieces(vocabulary: _Vocabulary) -> dict[str, Any]:
    if not any(kind == BYTE for kind in vocabulary.types):
        raise ModelError(
            f"{vocabulary.path}: a tokenizer of pieces without tokens for bytes is not supported"
        )
    replace = lambda a, b: {"type": "Replace", "pattern": {"String": a}, "content": b}
    prefixed = vocabulary.get("add_space_prefix", True)
    space = replace(" ", "▁")
    before = [{"type": "Prepend", "prepend": "▁"}, space]
    after = [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    after += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * prefixed
    return _tokenizer(
        vocabulary,
        {
            "unk_token": vocabulary.special.get("unk"),
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "merges": _merges(vocabulary),
        },
        normalizer={"type": "Sequence", "normalizers": before} if prefixed else space,
        pre_tokenizer=None,
        post_processor=vocabulary.around(True),
        decoder={"type": "Sequence", "decoders": after},
    )


def _merges(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """Every way to cut a piece into two, by the score of the piece."""
    scores, ids = vocabulary.need("scores"), vocabulary.ids
    if len(scores) < len(vocabulary.types):
        raise ModelError(
            f"{vocabulary.path} is damaged: {len(vocabulary.types)} tokens, but scores of {len(scores)}"
        )
    # Control tokens are never made of letters, and a byte is what remains of a letter that no piece has.
    pieces = [i for i in vocabulary.texts if vocabulary.types[i] in (NORMAL, UNUSED)]
    pieces.sort(key=lambda i: -scores[i])
    merges = []
    for i in pieces:
        text = vocabulary.texts[i]
        for at in range(1, len(text)):
            if text[:at] in ids and text[at:] in ids:
                merges.append((text[:at], text[at:]))
    return merges


def _check(path: Path, contents: Mapping[str, Any]) -> None:
    from tokenizers import Tokenizer

    read: Callable[[str], Tokenizer] = Tokenizer.from_str
    try:
        read(json.dumps(contents))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{path}: its vocabulary makes no tokenizer: {error}") from error
