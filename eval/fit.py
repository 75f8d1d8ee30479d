"""Does it fit, and what does it send? Each stage compiled for a TPU slice by the TPU's own compiler, without a TPU.

    python -m eval.fit configs/bench/fit_tpu.py --list                      which rows there are
    python -m eval.fit configs/bench/fit_tpu.py                             those that are not on file yet
    python -m eval.fit configs/bench/fit_tpu.py --rows "sft_*7b*" dpo       those whose names these patterns fit
    python -m eval.fit configs/bench/fit_tpu.py --rows sft_lora --redo all  once more

It needs the extra `aot` (libtpu, 0.7 GB), or a folder with it: pip install --target DIR libtpu==0.0.42.1, --libtpu DIR.
Rows of NVIDIA GPUs (h100:8) need the extra `gpu`, or jax-cuda12-plugin and jax-cuda12-pjrt in a folder, --cuda DIR.
A row says what the compiler says (whether HBM is enough, bytes of arguments and temporaries, the collectives with their
loops' turns counted in), and beside it what the stage needs on paper: operations, bytes, and the step time that peak,
HBM and links allow at best. So `mfu_at_most` is a limit and no forecast. Each row is compiled in a process of its own,
two to ten minutes of one core and some GB, and lands in RESULTS/ROW.json; OUT keeps its program's text, of which
`--reread` makes the numbers anew. A row on file with the same settings and commit is not compiled again (--redo
changed; missing: nor one of another commit; all: every row is).
"""

import dataclasses
import difflib
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxrec import config, results
from jaxrec.eval.fit_row import environment, find_compiler
from jaxrec.eval.fit_rows import STAGES, Row, to_json
from jaxrec.eval.fit_slices import FitError, chip_of
from jaxrec.files import write_atomically

_FLAG = {"tpu": "libtpu", "cuda": "cuda"}


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Which rows there are, which of them are compiled, and where it all goes."""

    table: tuple[Row, ...] = ()  # set in the experiment's file
    rows: tuple[str, ...] = ()  # names, parts of names, or patterns with *; empty: all
    list: bool = False  # only say which rows there are, and which are on file
    redo: Literal["changed", "missing", "all"] = "changed"  # which rows on file are compiled again
    reread: bool = False  # compile nothing: numbers anew from the texts in OUT
    minutes: float = 30.0  # after which a row is given up
    libtpu: str = ""  # folder that libtpu was installed into by pip's --target; empty: no other
    cuda: str = ""  # likewise of jax-cuda12-plugin and jax-cuda12-pjrt
    results: str = "results/fit"  # files of record, one a row
    out: str = "runs/fit"  # logs and programs' texts, a folder a row


def main(cfg: FitConfig) -> list[dict[str, Any]]:
    """Compiles the rows one after the other; gives those that are on file in the end. Exit status 1 if one failed."""
    chosen = choose(cfg.table, cfg.rows)
    for row in chosen:
        row.check()
    if cfg.list:
        for row in chosen:
            there = " (on file)" if kept(cfg, row, any_commit=True) else ""
            print(f"{row.name}{there}: {STAGES[row.stage]}")
        return []
    todo = [row for row in chosen if cfg.reread or not kept(cfg, row)]
    # Asked before the first row, so that a compiler that is not there is said at once and not once a row.
    kinds = {chip_of(row.topology).compiler for row in todo if not cfg.reread}
    folders = {kind: find_compiler(kind, getattr(cfg, _FLAG[kind])) for kind in sorted(kinds)}
    print(f"{len(todo)} rows to do, {len(chosen) - len(todo)} on file", flush=True)
    failed = []
    for at, row in enumerate(todo, 1):
        began = time.perf_counter()
        said = one(cfg, row, folders)
        if said is None:
            said = summary(record(cfg, row))
        else:
            failed.append(row.name)
        took = (time.perf_counter() - began) / 60
        print(f"{at}/{len(todo)} {row.name}: {said} ({took:.1f} min)", flush=True)
    if failed:
        raise FitError(f"{len(failed)} of {len(todo)} rows failed: {', '.join(failed)}")
    return [json.loads(place(cfg, row).read_text())["rows"][0] for row in chosen]


def choose(table: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows that any of the names fits: a whole name, a part of one, or a pattern with *. In the table's order.

    Raises FitError for a name that fits none.
    """
    known = [row.name for row in table]

    def fits(one: str, name: str) -> bool:
        # A whole name stands for itself alone, though it may begin another one.
        return (
            one == name
            if one in known
            else fnmatch.fnmatch(name, one if "*" in one else f"*{one}*")
        )

    for one in names:
        if not any(fits(one, name) for name in known):
            near = difflib.get_close_matches(one, [*STAGES, *known], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "--list says which there are"
            raise FitError(f"no row is called {one!r}: {hint}")
    return [row for row in table if not names or any(fits(one, row.name) for one in names)]


def place(cfg: FitConfig, row: Row) -> Path:
    """The row's file of record."""
    return Path(cfg.results) / f"{row.name}.json"


def kept(cfg: FitConfig, row: Row, any_commit: bool = False) -> bool:
    """Whether the row is on file and need not be compiled again."""
    path = place(cfg, row)
    if not path.exists() or (cfg.redo == "all" and not any_commit):
        return False
    found = json.loads(path.read_text())
    same = found["config"] == json.loads(to_json(row))
    if cfg.redo == "missing" or any_commit:
        return same
    now = results.commit()
    compiled_at = found["rows"][0]["compile_commit"]
    # Two trees that both differ from one commit may differ from each other.
    return same and compiled_at == now and not (now or "+").endswith("+changes")


def one(cfg: FitConfig, row: Row, folders: Mapping[str, Path | None]) -> str | None:
    """Compiles a row in a process of its own; None, or why there is no result.

    folders: of each kind of compiler the site folder that it lies in.
    """
    out = Path(cfg.out) / row.name
    write_atomically(out / "asked.json", to_json(row))
    words = [
        sys.executable,
        "-m",
        f"{__package__ or 'eval'}.fit_row",
        str(out / "asked.json"),
        str(out),
    ]
    own = dict(os.environ)
    if cfg.reread:
        words.append("--reread")
        if not (out / "compiled.json").exists():
            return "no program's text in OUT: compile it first"
    kind = chip_of(row.topology).compiler
    if kind in folders:
        folder = folders[kind]
        paths = [str(folder)] if folder else []
        paths += filter(None, [own.get("PYTHONPATH", "")])
        own |= environment(folder if kind == "tpu" else None) | {
            "PYTHONPATH": os.pathsep.join(paths)
        }
    try:
        done = subprocess.run(
            words, env=own, capture_output=True, text=True, timeout=60 * cfg.minutes
        )
    except subprocess.TimeoutExpired:
        return f"given up after {cfg.minutes:g} minutes (--minutes)"
    write_atomically(out / "log.txt", done.stdout + done.stderr)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        last = (told or lines or ["it said nothing"])[-1]
        killed = " (killed: no memory?)" if done.returncode == -9 else ""
        return f"failed with status {done.returncode}{killed}: {last}; see {out / 'log.txt'}"
    return None


def record(cfg: FitConfig, row: Row) -> dict[str, Any]:
    """Writes the row's file of record, and gives the row."""
    told = json.loads((Path(cfg.out) / row.name / "row.json").read_text())
    results.write_results(
        cfg.results, "fit", [told], config=row, wall_s=told["compile_seconds"], filename=place(cfg, row).name,
        peers=told["compile_by"],
        command=f"python -m eval.fit configs/bench/fit_tpu.py --rows {row.name}",
    )  # fmt: skip
    return told


def summary(told: dict[str, Any]) -> str:
    """A row in half a line."""
    if not told["fits"]:
        needed = told["needed_gb"]
        how_much = "more" if needed is None else f"{needed:.1f} GB"
        return f"does NOT fit: {how_much} of {told['hbm_gb']} GB a chip"
    share = "-" if told["of_paper"] is None else f"{told['of_paper']:.2f}x"
    return (
        f"fits, {told['needed_gb']:.1f} of {told['hbm_gb']} GB a chip; sends {told['sent_gb']:.3g} GB"
        f" ({share} of paper); at best {told['step_s']:.3g} s by {told['bound']}, MFU at most"
        f" {told['mfu_at_most']:.0%}"
    )


if __name__ == "__main__":
    config.run(main, FitConfig, __doc__)
