"""One row of the table of fits, in a process of its own: compiled for devices that are not there.

    python -m eval.fit_row ROW.json OUT             writes OUT/program.hlo.gz, OUT/compiled.json, OUT/row.json
    python -m eval.fit_row ROW.json OUT --reread    makes OUT/row.json anew from the other two, with no compiler

`eval.fit` starts it with the environment in which a compiler looks for no device (`environment`), so that a row that
kills the compiler takes no other one along.
"""

import argparse
import fnmatch
import gzip
import importlib.metadata
import importlib.util
import json
import re
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrec import files, program, results
from jaxrec.eval.fit_paper import work
from jaxrec.eval.fit_rows import CATALOGUES, HALVED, RECOMMENDERS, SHAPES, Row, from_json
from jaxrec.eval.fit_slices import FitError, bounds, chip_of, chips_in, describe
from jaxrec.replication import replicated

GB = 1e9
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
HEAVIEST = 4  # collectives that a row names
PARTS = ("arguments", "temporaries", "outputs", "code")  # of what a program holds
COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax-cuda12-plugin", "jax-cuda12-pjrt")}


def environment(folder: Path | None) -> dict[str, str]:
    """What a process needs so that a compiler asks for no device: libtpu's place in `folder`, or None for a GPU's."""
    own = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if folder is None:
        # There is no device to try kernels on, and without a trial some of Triton's have no tiles.
        flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
        return own | {"XLA_FLAGS": flags}
    return own | {
        "TPU_LIBRARY_PATH": str(folder / "libtpu" / "libtpu.so"),
        "TPU_SKIP_MDS_QUERY": "1",
        # Any will do: the slice is the one that is described. Without them libtpu asks the machine it is not on.
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # It takes no TPU from anybody, so it may run beside another process that has libtpu loaded.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }


def find_compiler(kind: str, folder: str = "") -> Path | None:
    """The site folder that a compiler's packages lie in, or None where it is this environment's own and needs no path.

    kind: of COMPILERS. folder: into which they were installed with --target; else this environment is looked through.
    Raises FitError where they are not there, or not of the version that this jax goes with.
    """
    wanted = {name: version_wanted(name) for name in COMPILERS[kind]}
    install = "pip install " + " ".join(f"'{name}=={v}'" for name, v in wanted.items())
    where = f"in {folder}" if folder else "in this environment"
    places = [str(Path(folder).expanduser())] if folder else sys.path
    for name, version in wanted.items():
        found = next(iter(importlib.metadata.distributions(name=name, path=places)), None)
        if found is None:
            raise FitError(f"the compiler for {kind} is not {where}: {install}")
        if not fnmatch.fnmatch(found.version, version):
            jax = importlib.metadata.version("jax")
            raise FitError(f"{name} {found.version} does not go with jax {jax}: {install}")
    if kind == "cuda":
        return Path(folder).expanduser() if folder else None
    return Path(str(found.locate_file(""))).resolve()


def version_wanted(package: str) -> str:
    """The version that the installed jax goes with, as "0.0.42.*"."""
    if package != "libtpu":
        return importlib.metadata.version("jax")
    for line in importlib.metadata.requires("jax") or []:
        if found := re.match(r"libtpu==([\d.*]+)", line):
            return found[1]
    raise FitError("this jax names no libtpu that it goes with: install jax 0.10 or newer")


def compile_row(row: Row, out: Path) -> None:
    """Compiles, and writes what came of it."""
    import jax

    from jaxrec import mesh as meshes
    from jaxrec.eval.fit_cases import case

    mesh = meshes.make(meshes.MeshConfig(*row.sizes), describe(row.topology))
    began, spent = time.perf_counter(), time.process_time()
    made = case(row, mesh)
    lowered = made.lower(mesh)
    facts: dict[str, Any] = {"loops": dict(made.loops), "lower_s": time.perf_counter() - began}
    facts["commit"] = results.commit()  # now: the tree may change while the compiler is at work
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        facts |= out_of_memory(str(error))
    else:
        m = compiled.memory_analysis()
        facts |= {
            "arguments": m.argument_size_in_bytes,
            "temporaries": m.temp_size_in_bytes,
            "outputs": m.output_size_in_bytes - m.alias_size_in_bytes,
            "code": m.generated_code_size_in_bytes,
        }
        needed, room = sum(facts[key] for key in PARTS), chip_of(row.topology).hbm_gb * GB
        # The TPU's compiler refuses what does not fit; a GPU's leaves that to the day when it runs.
        facts["fits"] = chip_of(row.topology).compiler == "tpu" or needed < room
        with gzip.open(out / "program.hlo.gz", "wt", compresslevel=4) as file:
            file.write(compiled.as_text())
    facts |= {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - spent,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB,
        "by": {
            name: importlib.metadata.version(name)
            for name in COMPILERS[chip_of(row.topology).compiler]
        },
    }
    files.write_json(out / "compiled.json", facts)


def out_of_memory(said: str) -> dict[str, Any]:
    """What a refusal says was needed. Raises FitError for one that is not about memory."""
    if "RESOURCE_EXHAUSTED" not in said:
        raise FitError(f"the compiler gave up: {_first_line(said)}")
    size = lambda number, unit: float(number) * _UNITS[unit]
    used = _USED.search(said)
    if used is None:
        return {"fits": False, "used": None, "room": None, "said": _first_line(said)}
    return {"fits": False, "used": size(*used.groups()[:2]), "room": size(*used.groups()[2:])}


def numbers(row: Row, facts: Mapping[str, Any], text: str | None) -> dict[str, Any]:
    """The row as it stands in the table.

    row: what was compiled. facts: of compiled.json. text: the program's, None where it did not fit.
    """
    chip, chips = chip_of(row.topology), chips_in(row.topology)
    paper = work(row)
    data, fsdp, tensor = row.sizes
    told: dict[str, Any] = {
        "row": row.name, "stage": row.stage, "shape": row.shape, "topology": row.topology,
        "mesh": f"{data}x{fsdp}x{tensor}", "rows": row.rows, "length": row.length,
        "accum": row.accum, "remat": row.remat,
        "tokens_a_chip": row.rows * row.length // chips,
        "fits": facts["fits"], "hbm_gb": chip.hbm_gb,
        "flops": paper.needed, "flops_again": paper.again,
        "moved_gb": paper.moved / GB, "paper_sent_gb": paper.sent / GB,
    }  # fmt: skip
    keep = ("seconds", "cpu_seconds", "peak_gb", "lower_s", "commit", "by")
    told |= {f"compile_{key}": facts[key] for key in keep}
    if text is None:
        return told | {"needed_gb": facts["used"] and facts["used"] / GB}
    needed = sum(facts[key] for key in PARTS)
    read = program.read(text)
    loops = facts["loops"]
    found = program.collectives(text, loops)
    kinds = program.by_kind(found)
    sent = sum(amount for _, amount in kinds.values())
    bound = bounds(chip, chips, paper.needed, paper.needed + paper.again, paper.moved, sent)
    held = replicated_rows(row, text)
    return told | {
        "arguments_gb": facts["arguments"] / GB,
        "temporaries_gb": facts["temporaries"] / GB,
        "needed_gb": needed / GB,
        "sent_gb": sent / GB,
        "of_paper": sent / paper.sent if paper.sent else None,
        "replicated_gb": None if held is None else sum(one.bytes for one in held[:1]) / GB,
        "replicated": [f"{one.shape[:60]} {one.op_name}" for one in held or ()][:HEAVIEST],
        "collectives": {k: {"runs": n, "gb": amount / GB} for k, (n, amount) in kinds.items()},
        "heaviest": [
            {"kind": c.kind, "gb": c.total / GB, "runs": c.times, "shape": c.shape[:80], "of": c.op_name}
            for c in found[:HEAVIEST]
        ],
        "loops_of_unknown_length": [loop.op_name for loop in read.unknown_loops(loops)],
        "compute_s": bound.compute, "hbm_s": bound.hbm, "links_s": bound.links,
        "bound": bound.name, "step_s": bound.seconds,
        "compute_share": bound.compute / bound.seconds, "mfu_at_most": bound.mfu,
    }  # fmt: skip


def replicated_rows(row: Row, text: str) -> list[program.Instruction] | None:
    """The activations of all rows that every device holds, the largest first.

    None where rows are not split, and where what was found may be something else of the same size.
    """
    data, fsdp, _ = row.sizes
    if data * fsdp == 1:
        return None
    # Both answers of a pair are rows.
    rows = row.rows // row.accum * (2 if row.stage == "dpo" else 1)
    length = row.length // 2 if row.stage in HALVED else row.length
    shape = (CATALOGUES if row.stage in RECOMMENDERS else SHAPES)[row.shape]
    found = replicated(text, rows, length, share=shape["d_model"] // fsdp)
    return None if found and rows in (length, *shape.values()) else found


def _first_line(error: Any) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "it said nothing")[:300]


def main() -> int:
    """Reads the flags; a FitError is one line and status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.fit_row",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("row", type=Path, help="a row's JSON (`fit_rows.to_json`)")
    parser.add_argument("out", type=Path, help="where files go")
    parser.add_argument("--reread", action="store_true", help="compile nothing")
    flags = parser.parse_args()
    row, out = from_json(flags.row.read_text()), flags.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        row.check()
        if not flags.reread:
            for name in ("program.hlo.gz", "compiled.json", "row.json"):  # no half of an older one
                (out / name).unlink(missing_ok=True)
            compile_row(row, out)
        facts, hlo = json.loads((out / "compiled.json").read_text()), out / "program.hlo.gz"
        text = gzip.open(hlo, "rt").read() if hlo.exists() else None
        files.write_json(out / "row.json", numbers(row, facts, text))
    except FitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
