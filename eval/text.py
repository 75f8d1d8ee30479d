"""How good written answers are: a model's, or those of a file, against the references of one's own chats.

    python -m eval.text --model FOLDER --data my.jsonl                  a Hugging Face folder, or one of ours
    python -m eval.text --model FOLDER --adapter runs/sft/adapter --data my.jsonl       an adapter, ours or PEFT's
    python -m eval.text --model runs/personalize --tenant KEY --data my.jsonl           a personal model, in KEY's voice
    python -m eval.text --predictions answers.jsonl --data my.jsonl     answers that are there already: no model
    python -m eval.text --model FOLDER --data my.jsonl --metrics rouge nats my_metrics:politeness

Measures: `rouge` (F1 of ROUGE-1, 2 and L), `exact` (equal but for white space), `similarity` (cosine of MiniLM's
sentence vectors; English), `nats` (of the reference, a token, and its perplexity), and one's own: MODULE:CALLABLE takes
(prediction, reference) and gives a number, or numbers by name. Intervals: 95 %, bootstrap over rows.

Writes OUT/rows.jsonl, a line an answer with every measure, and OUT/results.json. An interrupted run goes on from the
answers that it wrote, and they are saved before they are scored: `--predictions OUT/rows.jsonl` scores them again.
"""

import dataclasses
import difflib
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxrec import config, results, text_metrics
from jaxrec.config import RunError
from jaxrec.data.instructions import Instruction, json_lines, read_instructions, shorten
from jaxrec.files import content_hash, write_json_lines
from jaxrec.metrics import ratio
from jaxrec.models.language.kept_answers import in_parts

OWN = ("rouge", "exact", "similarity", "nats")
PREDICTED = (
    "prediction",
    "answer",
    "completion",
    "text",
)  # the field of a line, the first there is
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What is measured, on what, and how answers are written."""

    model: str = ""  # a folder of Hugging Face's or ours, a run's OUT, a GGUF file, a name ("smollm2") or a hub id
    tenant: str = ""  # of a personal model: who answers
    adapter: str = ""  # on top of the model: a folder of ours or of HF PEFT
    data: tuple[str, ...] = ()  # files of chats with their answers, see jaxrec.data.instructions
    predictions: str = ""  # answers that are there already: a .jsonl, a line for each row of `data`
    metrics: tuple[str, ...] = OWN  # or MODULE:CALLABLE of one's own
    stem: bool = False  # ROUGE compares the stems of English words
    limit: int = 0  # the first so many rows; 0: all
    new: int = 128  # tokens of an answer at most
    temperature: float = 0.0  # 0: the likeliest token
    top_p: float = 1.0
    length: int = 1024  # tokens of a row at most; a longer prompt loses its beginning
    rows: int = 8  # answered at a time
    plain: bool = False  # no chat template: prompt and completion as they stand
    quantise: Literal["", "nf4", "int8"] = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    draws: int = 2000  # of the bootstrap
    out: str = "runs/text"


class TextError(RunError, ValueError):
    """Settings that give nothing to measure, or answers that don't belong to the data."""


def main(cfg: TextConfig) -> dict[str, float]:
    """Answers where no answers are given, scores and writes; gives each measure's mean."""
    began = time.monotonic()
    own, personal = check(cfg), personal_folder(cfg)
    asked, measures = read(cfg), list(cfg.metrics)
    similar = similarity(measures)
    if "nats" in measures and not cfg.model:
        print("nats: left out, there is no model to ask", flush=True)
    written, surprise = None, None
    if cfg.predictions:
        written = read_predictions(Path(cfg.predictions), asked)
    if cfg.model:
        ask = functools.partial(by_tenant, personal) if personal else by_model
        written, surprise = ask(cfg, asked, written, "nats" in measures)
    assert written is not None
    rows = [
        {
            "where": one.where,
            "prompt": one.prompt[-1][1],
            "reference": one.answer,
            "prediction": text,
        }
        for one, text in zip(asked, written, strict=True)
    ]
    out = Path(cfg.out)
    write_json_lines(out / "rows.jsonl", rows)
    score(rows, measures, cfg.stem, similar, own)
    if surprise is not None:
        for row, (nats, tokens) in zip(rows, surprise, strict=True):
            row |= {"nats": float(nats), "tokens": int(tokens)}
    write_json_lines(out / "rows.jsonl", rows)
    found = summary(rows, cfg.draws, cfg.seed)
    record = {"model": cfg.model, "adapter": cfg.adapter, "tenant": cfg.tenant, "n": len(rows)}
    record |= {
        f"{m}{end}": v
        for m, i in found.items()
        for end, v in zip(("", "_lo", "_hi"), i, strict=True)
    }
    path = results.write_results(
        out, "text", [record], config=cfg, seed=cfg.seed, wall_s=time.monotonic() - began
    )
    show(rows, found, path)
    return {measure: value for measure, (value, _, _) in found.items()}


def check(cfg: TextConfig) -> dict[str, Callable[..., Any]]:
    """The measures of one's own, by name; raises TextError for settings that cannot be, before anything is loaded."""
    if not cfg.data:
        raise TextError(
            'no data: --data FILE.jsonl, lines of {"prompt", "completion"} or {"messages"}'
        )
    if not cfg.model and not cfg.predictions:
        raise TextError(
            "neither --model FOLDER, which writes answers, nor --predictions FILE, which has them"
        )
    if cfg.adapter and not cfg.model:
        raise TextError("an adapter lies on a model: name it with --model")
    if cfg.tenant and not cfg.model:
        raise TextError("a tenant is of a personal model: name it with --model")
    if min(cfg.rows, cfg.new, cfg.draws) < 1 or cfg.length <= cfg.new or cfg.limit < 0:
        raise TextError(
            "rows, new and draws must be above 0, length above new, and limit not below 0"
        )
    own = {}
    for name in cfg.metrics:
        if name in OWN:
            continue
        if ":" not in name:
            close = difflib.get_close_matches(name, OWN, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(OWN)},"
            raise TextError(
                f"there is no measure {name!r}; {hint} MODULE:CALLABLE is one of your own"
            )
        own[name] = config.by_path(name)
    if not cfg.metrics:
        raise TextError(f"no metrics: name one of {', '.join(OWN)}, or MODULE:CALLABLE")
    return own


def personal_folder(cfg: TextConfig) -> str:
    """The personal model's folder, or that of its tenants, if `model` is one; "" for any other model.

    Raises TextError for a tenant of a model that has none, and for settings that a personal model lacks.
    """
    if not cfg.model:
        return ""
    from jaxrec.models.personal.profile_folder import find_personal

    try:
        found, profile = find_personal(cfg.model)
    except RunError as error:
        if cfg.tenant:
            raise TextError(f"there is no tenant to answer: {error}") from error
        return ""
    plain = TextConfig()
    for name in ("adapter", "top_p", "length", "plain", "dtype"):
        if getattr(cfg, name) != getattr(plain, name):
            raise TextError(f"{cfg.model} is a personal model, which has no setting {name!r}")
    return profile or found


def read(cfg: TextConfig) -> list[Instruction]:
    """The rows of all data; what is left out is printed."""
    asked: list[Instruction] = []
    for source in cfg.data:
        found, skipped = read_instructions(source)
        for line in skipped.lines():
            print(f"{source}: {line}", flush=True)
        asked += found
    return asked[: cfg.limit or None]


def read_predictions(path: Path, asked: Sequence[Instruction]) -> list[str]:
    """The answer to each row: by the rows' `where`, if the file has it (as rows.jsonl does), else one after another."""
    rows = []
    for where, row in json_lines(path):
        field = next((name for name in PREDICTED if isinstance(row, Mapping) and name in row), None)
        said = row if isinstance(row, str) else row[field] if field else None
        if not isinstance(said, str):
            why = f"{row}; " if isinstance(row, Exception) else ""
            raise TextError(
                f"{where}: {why}a text is expected, or an object with one of {', '.join(PREDICTED)}"
            )
        rows.append((row.get("where") if isinstance(row, Mapping) else None, said))
    unique = len({one.where for one in asked}) == len(asked)
    if unique and rows and all(where is not None for where, _ in rows):
        by_place = dict(rows)
        lost = [one.where for one in asked if one.where not in by_place]
        if lost:
            raise TextError(
                f"{path} has no answer for {len(lost)} rows of the data, the first {lost[0]}"
            )
        return [by_place[one.where] for one in asked]
    if len(rows) != len(asked):
        raise TextError(f"{path} has {len(rows)} answers, and the data {len(asked)} rows")
    return [said for _, said in rows]


def by_model(
    cfg: TextConfig, asked: Sequence[Instruction], written: list[str] | None, with_nats: bool
) -> tuple[list[str], np.ndarray | None]:
    """(the model's answers, unless they are there; [U, 2] nats and tokens of the references, if they are wanted)."""
    from jaxrec.models.language.tuned_folder import load_tuned
    from jaxrec.models.language.tuned_lm import nats

    tuned = load_tuned(
        cfg.model, cfg.adapter, quantise=cfg.quantise, plain=cfg.plain or None, dtype=cfg.dtype
    )
    room = min(cfg.length, tuned.cfg.max_positions)
    if written is None:
        if room <= cfg.new:
            raise TextError(f"the model reads {room} tokens: ask for fewer than that with --new")
        written = by_decoder(tuned, asked, cfg, room - cfg.new)
    surprise = None
    if with_nats:
        examples = [tuned.chat.example(one.messages, "last") for one in asked]
        cut = sum(len(one.ids) > room for one in examples)
        if cut:
            print(
                f"nats: {cut} rows are longer than {room} tokens, and lose their beginning",
                flush=True,
            )
        examples = [shorten(one, room) if len(one.ids) > room else one for one in examples]
        surprise = nats(tuned.lm, tuned.tree, examples, rows=cfg.rows, pad_id=tuned.chat.pad_id)
    return written, surprise


def by_tenant(
    folder: str,
    cfg: TextConfig,
    asked: Sequence[Instruction],
    written: list[str] | None,
    with_nats: bool,
) -> tuple[list[str], np.ndarray | None]:
    """As `by_model`, in the voice of a tenant of the personal model in `folder`.

    Raises TextError where no tenant is named, and TenantError for one that the model does not know.
    """
    from jaxrec import checkpoint
    from jaxrec.assistant import Assistant
    from jaxrec.data.tenants import nearest

    assistant = Assistant.load(folder, quantise=cfg.quantise, rows=cfg.rows, limit=cfg.new)
    if not cfg.tenant:
        raise TextError(
            f"{cfg.model} answers for tenants: say for whom with --tenant{nearest('', assistant.tenants)}"
        )
    voice, prompts = assistant.voice(cfg.tenant), [one.prompt for one in asked]
    if written is None:
        weights = (assistant.model.params, voice.p_E, voice.delta)
        write = lambda some, seed: assistant.answers(
            [prompts[i] for i in some], cfg.tenant, temperature=cfg.temperature, seed=seed
        )
        lengths = [sum(len(said) for _, said in prompt) for prompt in prompts]
        of = content_of(cfg, prompts, checkpoint.fingerprint(weights))
        written = in_parts(lengths, write, kept_in(cfg), of, rows=cfg.rows, seed=cfg.seed)
    if not with_nats:
        return written, None
    surprise = assistant.nats(prompts, [one.answer for one in asked], cfg.tenant)
    whole = [sum(w > 0 for w in assistant.model.chat.answer(one.answer).loss[1:]) for one in asked]
    if cut := int((surprise[:, 1] < whole).sum()):
        print(f"nats: {cut} references are longer than the model answers, and lose their end")
    return written, surprise


def by_decoder(tuned: Any, asked: Sequence[Instruction], cfg: TextConfig, room: int) -> list[str]:
    """An answer to each row by a language model; a prompt longer than `room` tokens loses its start."""
    import jax

    from jaxrec.dialogue.prompts import Generation
    from jaxrec.models.language.writing import decoder_writer, openings_of

    chat = tuned.chat
    how = Generation(
        max_new=cfg.new, temperature=cfg.temperature, top_p=cfg.top_p, repetition=1.0, stop=()
    )
    write = decoder_writer(tuned.cfg, how, eos=chat.eos_ids, text_of=chat.decode, rows=cfg.rows)
    openings = openings_of(chat, [one.prompt for one in asked], room)
    cut = sum(len(ids) == room for ids in openings)
    if cut:
        print(
            f"{cut} prompts fill the {room} tokens there are, or lost their beginning", flush=True
        )
    trained = [np.asarray(leaf) for leaf in jax.tree.leaves(tuned.tree.get("delta"))]
    of = content_of(cfg, openings, tuned.base_hash, *trained)
    some_of = lambda some, seed: write(tuned.tree, [openings[i] for i in some], seed).texts or []
    lengths = [len(ids) for ids in openings]
    return in_parts(lengths, some_of, kept_in(cfg), of, rows=cfg.rows, seed=cfg.seed)


def kept_in(cfg: TextConfig) -> Path:
    """Where the answers of a run that was interrupted lie."""
    return Path(cfg.out) / "answers.part.jsonl"


def content_of(cfg: TextConfig, prompts: Sequence[Any], *weights: Any) -> str:
    """A hash of everything that answers depend on."""
    how = (
        cfg.new,
        cfg.temperature,
        cfg.top_p,
        cfg.rows,
        cfg.quantise,
        cfg.dtype,
        cfg.seed,
        cfg.tenant,
    )
    return content_hash(json.dumps([how, list(map(list, prompts))]), *weights)


def similarity(measures: list[str]) -> Callable[[Sequence[str]], np.ndarray] | None:
    """MiniLM, if it is asked for and installed; else `measures` loses it, and that is said."""
    if "similarity" not in measures:
        return None
    from jaxrec.hub.config import ModelMissing
    from jaxrec.models.text.sentence import SentenceEncoder

    try:
        return SentenceEncoder.load()
    except ModelMissing as error:
        print(f"similarity: left out, {error}", flush=True)
        measures.remove("similarity")
        return None


def score(
    rows: Sequence[dict[str, Any]],
    measures: Sequence[str],
    stem: bool,
    similar: Callable[[Sequence[str]], np.ndarray] | None,
    own: Mapping[str, Callable[..., Any]],
) -> None:
    """Puts the measures into rows of "prediction" and "reference".

    measures: which of `OWN`. stem: for ROUGE. similar: texts -> unit vectors. own: further measures, by name.
    Raises TextError for a measure of one's own that fails or gives no finite number.
    """
    texts = [row["prediction"] for row in rows]
    if similar is not None:
        near = (similar(texts) * similar([row["reference"] for row in rows])).sum(1)
        for row, cosine in zip(rows, near, strict=True):
            row["similarity"] = float(cosine)
    for row in rows:
        pair = row["prediction"], row["reference"]
        if "rouge" in measures:
            row |= {kind: match.f1 for kind, match in text_metrics.rouge(*pair, stem=stem).items()}
        if "exact" in measures:
            row["exact"] = float(text_metrics.same_text(*pair))
        for name, measure in own.items():
            row |= numbers(name, measure, pair, row["where"])


def numbers(
    name: str, measure: Callable[..., Any], pair: tuple[str, str], where: str
) -> dict[str, float]:
    """What a measure of one's own gives for a (prediction, reference), by name."""
    short = name.rpartition(":")[2]
    try:
        given = measure(*pair)
        given = (
            {f"{short}.{part}": v for part, v in given.items()}
            if isinstance(given, Mapping)
            else {short: given}
        )
        found = {part: float(value) for part, value in given.items()}
    except Exception as error:
        raise TextError(f"{name} fails at {where}: {type(error).__name__}: {error}") from error
    if not all(map(math.isfinite, found.values())):
        raise TextError(f"{name} gives {found} at {where}, and a mean needs finite numbers")
    return found


def summary(
    rows: Sequence[Mapping[str, Any]], draws: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """(mean, low, high) of each measure over the rows; nats are a token's, and the perplexity is theirs."""
    texts = ("where", "prompt", "reference", "prediction", "nats", "tokens")
    ones, found = np.ones(len(rows)), {}
    for name in dict.fromkeys(key for row in rows for key in row if key not in texts):
        if any(name not in row for row in rows):
            raise TextError(f"the measure {name} is there for some rows only, so it has no mean")
        interval = ratio(np.array([row[name] for row in rows]), ones, draws, seed)
        found[name] = (interval.value, interval.lo, interval.hi)
    if rows and "nats" in rows[0]:
        nats, tokens = (np.array([float(row[key]) for row in rows]) for key in ("nats", "tokens"))
        interval = ratio(nats, tokens, draws, seed)
        found["nats"] = (interval.value, interval.lo, interval.hi)
        found["perplexity"] = tuple(math.exp(min(x, 700.0)) for x in found["nats"])
    return found


def show(
    rows: Sequence[Mapping[str, Any]], found: Mapping[str, tuple[float, float, float]], path: Path
) -> None:
    """Prints a few answers, the measures and where all of it lies."""
    for row in rows[:SHOWN]:
        print(f"{row['prompt'].strip()[-80:]!r}")
        print(f"  wanted  {row['reference'][:100]!r}\n  written {row['prediction'][:100]!r}")
    empty = sum(not row["prediction"].strip() for row in rows)
    print(f"\n{len(rows)} answers" + (f", {empty} of them empty" if empty else ""))
    results.print_table(
        [{"measure": m, "mean": v, "from": lo, "to": hi} for m, (v, lo, hi) in found.items()]
    )
    print(f"\neach answer: {path.with_name('rows.jsonl')}; the record: {path}")


if __name__ == "__main__":
    config.run(main, TextConfig, __doc__)
