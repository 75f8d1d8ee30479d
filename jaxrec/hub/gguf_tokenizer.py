"""Floor 3: a model folder's tokenizer in the words of a GGUF file: tokens, merges or scores, special ids, template.

A byte-level BPE (GPT-2, Llama 3, Qwen2, our own) becomes llama.cpp's `gpt2` with the name of its splitting rule; a BPE
over pieces with a byte fallback (Llama 2, which began as SentencePiece) becomes `llama`, whose scores are the order
of the merges. What llama.cpp would split otherwise than we do is refused.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec.data.text import ROLES, SPECIALS
from jaxrec.hub.config import ModelError
from jaxrec.hub.tokenizer import Tokenizer

# llama.cpp's names of the rules by which a text is split before the merges; the two differ in how numbers are cut
_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    _RULE.replace("NUMBER", r"\p{N}"): "qwen2",
    _RULE.replace("NUMBER", r"\p{N}{1,3}"): "llama-bpe",
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# The chat format of `data.text`, for a tokenizer that this project trained.
_OWN_TEMPLATE = (
    "{{ '<bos>' }}{% set open = " + json.dumps(ROLES) + " %}"
    "{% for message in messages %}{{ open[message['role']] + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def write_tokenizer(writer: Any, folder: str | Path, rows: int) -> None:
    """Everything that `folder` says of its tokenizer, into a `gguf.GGUFWriter`.

    rows: of the embedding; those beyond the tokens are named and never used. Raises ModelError on a tokenizer that
    llama.cpp has no equal of, and ModelMissing without a tokenizer.json.
    """
    tokenizer = Tokenizer(folder)
    contents = json.loads((Path(folder) / "tokenizer.json").read_text())
    model = contents["model"]
    if model.get("type") != "BPE":
        raise ModelError(
            f"{folder}: a tokenizer of type {model.get('type')!r} has no place in GGUF here, only BPE"
        )
    added = {x["id"]: x for x in contents.get("added_tokens", ())}
    tokens = {i: token for token, i in model["vocab"].items()}
    tokens |= {i: x["content"] for i, x in added.items()}
    if max(tokens) >= rows:
        raise ModelError(
            f"{folder}: the tokenizer has {max(tokens) + 1} tokens, but the embedding only {rows} rows"
        )
    # Newer files of `tokenizers` hold a merge as a pair, older ones as a text with a space in it.
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    pieces = bool(model.get("byte_fallback"))
    # llama.cpp wants a text for every row of the embedding, also where no token has it.
    texts = [tokens.get(i, f"[PAD{i}]") for i in range(rows)]
    types = [_type_of(i, tokens, added, model.get("unk_token"), pieces) for i in range(rows)]
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    if pieces:
        _refuse_other_pieces(contents, folder)
        writer.add_add_space_prefix(_opens_with_space(contents))
        writer.add_token_scores(_scores(texts, merges))
    else:
        writer.add_tokenizer_pre(_split_rule(contents, folder))
        writer.add_token_merges(merges)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    _write_special(writer, tokenizer)


def _type_of(i: int, tokens: Mapping, added: Mapping, unknown: str | None, pieces: bool) -> int:
    if i not in tokens:
        return UNUSED
    # Asked first, because an unknown token is usually an added one as well.
    if tokens[i] == unknown:
        return UNKNOWN
    if i in added:
        return CONTROL if added[i].get("special") else USER_DEFINED
    return BYTE if pieces and _BYTE.fullmatch(tokens[i]) else NORMAL


def _scores(texts: list[str], merges: list[str]) -> list[float]:
    """llama.cpp merges the pair whose result scores highest: so the earliest merge has the highest score."""
    order: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        # Several merges may make the same piece: the earliest of them counts.
        order.setdefault(merge.replace(" ", ""), rank)
    return [-float(order.get(text, len(merges))) for text in texts]


def _parts(part: Mapping[str, Any] | None, inside: str) -> list[Mapping[str, Any]]:
    if not part:
        return []
    return list(part[inside]) if part["type"] == "Sequence" else [part]


def _split_rule(contents: Mapping[str, Any], folder: str | Path) -> str:
    parts = _parts(contents.get("pre_tokenizer"), "pretokenizers")
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        if parts[0].get("add_prefix_space"):
            raise ModelError(
                f"{folder}: a space before each text (add_prefix_space) has no place in GGUF"
            )
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"  # also StarCoder's
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        rule = parts[0]["pattern"].get("Regex")
        if rule in SPLITS:
            return SPLITS[rule]
    raise ModelError(
        f"{folder}: llama.cpp knows no splitting rule equal to this tokenizer's ({', '.join(kinds) or 'none'});"
        " known are those of GPT-2, Phi-2, SmolLM, Llama 3 and Qwen2"
    )


def _refuse_other_pieces(contents: Mapping[str, Any], folder: str | Path) -> None:
    normal = _parts(contents.get("normalizer"), "normalizers")
    space = {"String": " "}
    # Gemma's files split at spaces when there are none left.
    gone = any(p["type"] == "Replace" and p["pattern"] == space for p in normal)
    idle = lambda p: gone and p["type"] == "Split" and p["pattern"] == space
    splits = _parts(contents.get("pre_tokenizer"), "pretokenizers")
    kinds = [p["type"] for p in [*normal, *(p for p in splits if not idle(p))]]
    other = sorted(set(kinds) - {"Prepend", "Replace", "Metaspace"})
    if other:
        raise ModelError(
            f"{folder}: a tokenizer of pieces with {', '.join(other)} has no equal in GGUF"
        )


def _opens_with_space(contents: Mapping[str, Any]) -> bool:
    parts = _parts(contents.get("normalizer"), "normalizers")
    parts += _parts(contents.get("pre_tokenizer"), "pretokenizers")
    return any(
        p["type"] == "Prepend" or p.get("prepend_scheme") in ("first", "always") for p in parts
    )


def _write_special(writer: Any, tokenizer: Tokenizer) -> None:
    own = all(tokenizer.id_of(name) is not None for name in SPECIALS)
    special = tokenizer.special | ({"bos": "<bos>", "eos": "<eos>", "pad": "<pad>"} if own else {})
    ids = {key: tokenizer.id_of(token) for key, token in special.items()}
    for key, write in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
        ("unk", writer.add_unk_token_id),
    ):
        if ids[key] is not None:
            write(ids[key])
    # what the chat template writes behind an answer comes last there, and first here: a file names two ends more
    ends = [i for i in reversed(tokenizer.answer_ends) if i != ids["eos"]]
    for i, write in zip(ends, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        write(i)
    bare, full = (tokenizer.encode("a", special) for special in (False, True))
    # our own models are trained on texts behind <bos>, which the tokenizer leaves to the caller
    writer.add_add_bos_token(own or (full != bare and full[0] == ids["bos"]))
    writer.add_add_eos_token(full != bare and full[-1] == ids["eos"])
    template = _OWN_TEMPLATE if own else tokenizer.template()
    if template:
        writer.add_chat_template(template)
