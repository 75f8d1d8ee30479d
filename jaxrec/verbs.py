"""What `import jaxrec` offers for files of one's own: `jaxrec.tune` and `jaxrec.evaluate`.

    adapter = jaxrec.tune("chats.jsonl", base="runs/demo/pretrain/model", out="runs/mine")
    print(jaxrec.evaluate(adapter, "held.jsonl"))

They are the scripts `train.sft` and `eval.text` with settings that suit some tens to some thousands of chats; what
they write, print and refuse is the scripts'.
"""

import dataclasses
import difflib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxrec.config import ConfigError, RunError, to_dict
from jaxrec.data.instructions import read_instructions
from jaxrec.files import content_hash, file_hash, write_json, write_json_lines

Chats = str | Path | Sequence[str | Path | Mapping[str, Any]]  # files, or rows as they stand in one
T = TypeVar("T")
_MADE = "tune.json"  # of OUT: which chats and settings its run had


def tune(
    chats: Chats,
    base: str | Path,
    *,
    method: str = "lora",
    held: Chats = (),
    steps: int = 0,
    lr: float = 0.0,
    length: int = 512,
    rows: int = 8,
    out: str | Path = "runs/tune",
    fresh: bool = False,
    **settings: Any,
) -> Path:
    """Tunes a language model on chats of one's own and gives the folder of what was learned, the best of the run.

    A progress bar runs on stderr; what had to be left out of the chats is printed. Called again with the same chats and
    settings, an interrupted run goes on and a finished one is not repeated.

    Args:
      chats: a .jsonl file, several, or rows: {"prompt", "completion"} or {"messages": [{"role", "content"}, ...]}.
      base: a folder (Hugging Face's, ours, or an adapter's), a GGUF file, a name ("smollm2") or a hub id.
      method: "lora", "rslora", "dora", "ia3", "adapter", "prefix", "prompt", ..., or "full" for all weights.
      held: chats to measure on while it learns; some of `chats`, at least two, when empty.
      steps: updates; 0: three passes over the chats, sixty at least. It ends early when `held` gets worse.
      lr: the highest learning rate; 0: 1e-3, and 5e-5 for "full".
      length: tokens of a chat at most; what comes before is cut, and counted.
      rows: chats an update.
      out: the folder of everything that the run writes.
      fresh: begin anew where `out` holds a run of other chats or settings, which is removed.
      settings: other fields of `train.sft`'s SftConfig, as `quantise="nf4"` or `dtype="bfloat16"`.

    Returns OUT/adapter (it names its base; OUT/peft is for Hugging Face PEFT), or OUT/model for "full".
    Raises RunError, in one line, for chats or models that cannot be read, settings that don't fit, and an `out` that
    holds another run.
    """
    from jaxrec.train import sft
    from jaxrec.training.loop import LoopConfig
    from jaxrec.training.optimizer import OptConfig

    out = Path(out)
    files, inline = _files(chats, out / "chats.jsonl")
    held_files, held_inline = _files(held, out / "held.jsonl")
    every = steps or max(60, 3 * -(-_count(chats) // rows))
    known = {
        "base": str(base), "data": files, "held": held_files, "method": method, "length": length, "rows": rows,
        "hold_out_every": min(20, max(2, _count(chats) // 2)), "batching": "bucketed", "out": str(out),
        "opt": OptConfig(lr=lr or (5e-5 if method == "full" else 1e-3), warmup=min(20, every // 10)),
        "loop": LoopConfig(
            steps=every, eval_every=max(1, every // 10), save_every=max(1, every // 5), patience=3, monitor="held_nll"
        ),
    }  # fmt: skip
    cfg = _settings(sft.SftConfig, known, settings)
    folder = out / ("model" if method == "full" and cfg.delta.empty else "adapter")
    made = {
        "config": json.loads(json.dumps(to_dict(cfg))),
        "chats": _hash(chats),
        "held": _hash(held),
    }
    if _begin(out, made, fresh) and folder.is_dir():
        print(
            f"{folder} is there already, of these chats and settings (fresh=True: anew)", flush=True
        )
        return folder
    for path, chats_of in (*inline.items(), *held_inline.items()):
        write_json_lines(path, chats_of)
    sft.main(cfg)
    write_json(out / _MADE, made | {"done": True})
    return folder


def evaluate(
    model: str | Path,
    data: Chats,
    *,
    tenant: str = "",
    adapter: str | Path = "",
    metrics: Sequence[str] = ("rouge", "exact", "similarity", "nats"),
    new: int = 128,
    limit: int = 0,
    out: str | Path = "runs/text",
    **settings: Any,
) -> dict[str, float]:
    """Lets a model answer chats and measures its answers against theirs: {"rouge1": 0.41, ..., "nats": 1.9}.

    Prints a few answers and the table with 95 % intervals; OUT/rows.jsonl has each answer with its measures.

    Args:
      model: as `base` of `tune`; an adapter's folder, as `tune` gives it; a personal model's or
        its tenants' (`Assistant.save`), or the OUT of a run that wrote one of them.
      data: as the `chats` of `tune`; what each one's last answer says is the reference.
      tenant: who answers, where `model` is a personal one.
      adapter: an adapter's folder, ours or of PEFT, on top of `model`.
      metrics: "rouge", "exact", "similarity", "nats", or "module:callable" of (prediction, reference).
      new: tokens of an answer at most.
      limit: the first so many chats; 0: all.
      out: the folder of rows.jsonl and results.json; what an earlier evaluation wrote there is replaced.
      settings: other fields of `eval.text`'s TextConfig, as `temperature=0.7` or `stem=True`.

    Raises RunError, in one line, for what cannot be read or measured.
    """
    from jaxrec.eval import text

    files, inline = _files(data, Path(out) / "data.jsonl")
    known = {
        "model": str(model), "tenant": tenant, "adapter": str(adapter), "data": files,
        "metrics": tuple(metrics), "new": new, "limit": limit, "out": str(out),
    }  # fmt: skip
    cfg = _settings(text.TextConfig, known, settings)
    for path, chats in inline.items():
        write_json_lines(path, chats)
    return text.main(cfg)


# ------------------------------------------------------------------------------------------------- inside


def _files(chats: Chats, to: Path) -> tuple[tuple[str, ...], dict[Path, list[Mapping[str, Any]]]]:
    """(the files that chats lie in, what has to be written first: rows that lie in none)."""
    if isinstance(chats, str | Path):
        chats = (chats,)
    rows = [one for one in chats if isinstance(one, Mapping)]
    files = [str(one) for one in chats if isinstance(one, str | Path)]
    if len(rows) + len(files) != len(chats):
        raise ConfigError("chats are files, or rows like {'prompt': ..., 'completion': ...}")
    if not rows:
        return tuple(files), {}
    try:
        json.dumps(rows)
    except TypeError as error:
        raise ConfigError(f"a chat that is no JSON: {error}") from error
    return (*files, str(to)), {to: rows}


def _count(chats: Chats) -> int:
    """How many chats there are; what is malformed is named when they are read to be learned."""
    if isinstance(chats, str | Path):
        chats = (chats,)
    files = [one for one in chats if not isinstance(one, Mapping)]
    return len(chats) - len(files) + sum(len(read_instructions(str(file))[0]) for file in files)


def _hash(chats: Chats) -> str:
    """Of what the chats say, wherever they lie."""
    if isinstance(chats, str | Path):
        chats = (chats,)
    parts = [
        json.dumps(one, sort_keys=True) + "\n"
        if isinstance(one, Mapping)
        else file_hash(one)
        if Path(one).is_file()
        else f"{one}\n"
        for one in chats
    ]
    return content_hash(*parts, digits=16)


def _settings(kind: type[T], known: Mapping[str, Any], more: Mapping[str, Any]) -> T:
    """A configuration; raises ConfigError for a setting that it doesn't have, with the nearest one."""
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in more:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(fields)}"
            raise ConfigError(f"there is no setting {name!r}; {hint}")
    return kind(**{**known, **more})


def _begin(out: Path, made: Mapping[str, Any], fresh: bool) -> bool:
    """Makes OUT ready for a run; True where the same one has finished there. Removes another one's if `fresh`."""
    path = out / _MADE
    try:
        old = json.loads(path.read_text()) if path.is_file() else None
    except json.JSONDecodeError:
        old = {}
    done = bool(old and old.pop("done", False))
    if old is not None and (fresh or old != made):
        learned = any((out / name).exists() for name in ("checkpoints", "adapter", "model"))
        if learned and not fresh:
            raise RunError(
                f"{out} holds a run of other chats or settings: name another folder with out=, or say fresh=True"
            )
        for one in out.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        done = False
    elif old is None and out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out} is not empty, and no run of `tune`: name another folder with out=")
    out.mkdir(parents=True, exist_ok=True)
    if not done:
        write_json(path, made)
    return done
