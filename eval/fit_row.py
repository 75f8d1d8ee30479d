"""One row of the table of fits, in a process of its own: compiled by the TPU's compiler, on a machine without a TPU.

    python -m eval.fit_row ROW.json OUT             writes OUT/program.hlo.gz, OUT/compiled.json, OUT/row.json
    python -m eval.fit_row ROW.json OUT --reread    makes OUT/row.json anew from the other two, with no compiler

`eval.fit` starts it with the environment in which libtpu looks for no TPU (`environment`), so that a row that kills the
compiler takes no other one along.
"""

import argparse
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

from jaxrec import files, program
from jaxrec.eval.fit_paper import work
from jaxrec.eval.fit_rows import Row, from_json
from jaxrec.eval.fit_slices import FitError, bounds, chip_of, chips_in

GB = 1e9
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
HEAVIEST = 4  # collectives that a row names


def environment(folder: Path) -> dict[str, str]:
    """What a process needs so that libtpu, in `folder`, compiles and asks for neither a TPU nor a metadata server."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_LIBRARY_PATH": str(folder / "libtpu.so"),
        "TPU_SKIP_MDS_QUERY": "1",
        # Any will do: the slice is the one that is described. Without them libtpu asks the machine it is not on.
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # It takes no TPU from anybody, so it may run beside another process that has libtpu loaded.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }


def find_libtpu(folder: str = "") -> Path:
    """The folder that libtpu.so lies in: of the package in this environment, or of one installed into `folder`.

    Raises FitError where there is none, or where it is not the version that this jax goes with.
    """
    wanted = libtpu_wanted()
    install = f"pip install 'libtpu=={wanted}' (0.7 GB; also jaxrec's extra `aot`)"
    if folder:
        there = Path(folder).expanduser()
        found = list(there.glob("libtpu-*.dist-info"))
        place = there / "libtpu"
        version = found[0].name.removeprefix("libtpu-").removesuffix(".dist-info") if found else ""
    else:
        spec = importlib.util.find_spec("libtpu")
        place = Path(spec.submodule_search_locations[0]) if spec else Path("libtpu")
        version = importlib.metadata.version("libtpu") if spec else ""
    if not version or not (place / "libtpu.so").exists():
        where = f"in {folder}" if folder else "in this environment"
        raise FitError(f"the TPU's compiler is not {where}: {install}")
    if not re.fullmatch(wanted.replace(".", r"\.").replace(r"\.*", r"\..*"), version):
        jax = importlib.metadata.version("jax")
        raise FitError(f"libtpu {version} does not go with jax {jax}: {install}")
    return place


def libtpu_wanted() -> str:
    """The version of libtpu that the installed jax asks for, as "0.0.42.*"."""
    for line in importlib.metadata.requires("jax") or []:
        if found := re.match(r"libtpu==([\d.*]+)", line):
            return found[1]
    raise FitError("this jax names no libtpu that it goes with: install jax 0.10 or newer")


def compile_row(row: Row, out: Path) -> None:
    """Compiles, and writes what came of it."""
    import jax
    from jax.experimental import topologies

    from jaxrec import mesh as meshes
    from jaxrec.eval.fit_cases import case

    try:
        slice_ = topologies.get_topology_desc(platform="tpu", topology_name=row.topology)
    except jax.errors.JaxRuntimeError as error:
        raise FitError(f"topology {row.topology!r}: {_first_line(error)}") from error
    mesh = meshes.make(meshes.MeshConfig(*row.sizes), slice_.devices)
    began, spent = time.perf_counter(), time.process_time()
    made = case(row, mesh)
    lowered = made.lower(mesh)
    facts: dict[str, Any] = {"loops": dict(made.loops), "lower_s": time.perf_counter() - began}
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        facts |= out_of_memory(str(error))
    else:
        m = compiled.memory_analysis()
        facts |= {
            "fits": True,
            "arguments": m.argument_size_in_bytes,
            "temporaries": m.temp_size_in_bytes,
            "outputs": m.output_size_in_bytes - m.alias_size_in_bytes,
            "code": m.generated_code_size_in_bytes,
        }
        with gzip.open(out / "program.hlo.gz", "wt", compresslevel=4) as file:
            file.write(compiled.as_text())
    facts |= {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - spent,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB,
        "libtpu": importlib.metadata.version("libtpu"),
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
    keep = ("seconds", "cpu_seconds", "peak_gb", "lower_s", "libtpu")
    told |= {f"compile_{key}": facts[key] for key in keep}
    if text is None:
        return told | {"needed_gb": facts["used"] and facts["used"] / GB}
    read = program.read(text)
    loops = facts["loops"]
    found = program.collectives(text, loops)
    kinds = program.by_kind(found)
    sent = sum(amount for _, amount in kinds.values())
    bound = bounds(chip, chips, paper.needed, paper.needed + paper.again, paper.moved, sent)
    argument, temporary = facts["arguments"], facts["temporaries"]
    return told | {
        "arguments_gb": argument / GB,
        "temporaries_gb": temporary / GB,
        "needed_gb": (argument + temporary + facts["outputs"] + facts["code"]) / GB,
        "sent_gb": sent / GB,
        "of_paper": sent / paper.sent if paper.sent else None,
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
            (out / "program.hlo.gz").unlink(missing_ok=True)
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
