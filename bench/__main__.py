"""The speed races: jaxrec's own code against its peers, on this machine, in the same run.

    python -m bench --peers .venv-bench/bin/python --recbole .venv-recbole/bin/python --out results/bench
    python -m bench --race generate-16 --race encode                        some of them
    python -m bench --list
    python -m bench --device gpu --peers .venv-bench/bin/python --out results/bench_gpu     those that need a GPU

Every contender lives in a process of its own; rounds are interleaved and rotated; a round in which other programs
took part of the CPU is run again. Contenders must first give the base's answers (within 1e-3; what keeps weights in
fewer bits within a looser bound, which stands in its race). A race whose peer is not installed says so in its rows,
one whose model was not fetched says how to fetch it and is left out. Writes one file a race, DIR/RACE.json.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.race import gpu_card, harness
from bench.race.card import RACES
from bench.race.harness import Race
from bench.race.shape import CACHE

COLUMNS = (
    "race", "contender", "ratio", "lo", "hi", "n", "value", "unit", "base", "bar", "limit", "met", "memory_ratio",
    "note",
)  # fmt: skip
REACHED = ("tflops_s", "mfu", "gb_s", "of_bandwidth", "memory_mb")  # of an accelerator


CARDS = {"cpu": RACES, "gpu": gpu_card.RACES}


def choose(names: Sequence[str], device: str = "cpu") -> list[Race]:
    """The device's races of these names, or all. What is no race's name stands for all that begin so ("generate")."""
    card = CARDS[device]
    if not names:
        return list(card)
    known = [race.name for race in card]
    chosen: set[str] = set()
    for name in names:
        found = [name] if name in known else [one for one in known if one.startswith(name)]
        if not found:
            raise SystemExit(f"bench: there is no race {name!r}; the races are {', '.join(known)}")
        chosen |= set(found)
    return [race for race in card if race.name in chosen]


def main() -> int:
    """Runs the chosen races one after another. Exit status 1 when one of our own contenders failed."""
    flags = parse()
    races = choose(flags.race, flags.device)
    if flags.list:
        for race in races:
            print(f"{race.name:18}{race.about}\n{'':18}{', '.join(race.entries)}")
        return 0
    if flags.device == "gpu":
        say_the_gpu()
    from jaxrec.results import print_table, write_results

    pythons = {"": sys.executable, "peers": found(flags.peers), "recbole": found(flags.recbole)}
    broken = False
    for race in races:
        if not_fetched := missing(race):
            print(f"{race.name}: left out: {not_fetched}", flush=True)
            continue
        start = time.perf_counter()
        print(f"{race.name}: {race.about}", flush=True)
        rounds = flags.rounds or race.rounds
        of_device = "" if race.device == "cpu" else f"--device {race.device} "
        rows, versions = harness.run(race, pythons, CACHE / "logs", rounds)
        reached = [row | row.get("info", {}) for row in rows]
        print_table(reached, COLUMNS if race.device == "cpu" else (*COLUMNS[:-1], *REACHED, "note"))
        write_results(
            flags.out,
            "bench",
            rows,
            config={"race": race.name, "rounds": rounds},
            wall_s=time.perf_counter() - start,
            filename=f"{race.name}.json",
            peers=versions,
            command=f"python -m bench {of_device}--race {race.name}",
        )
        broken |= any(
            row["contender"].startswith("jaxrec") and row["value"] is None for row in rows
        )
    return int(broken)


def missing(race: Race) -> str:
    """What to do so that a race has the model that it needs; empty where it has it or needs none."""
    if not race.model:
        return ""
    from jaxrec.hub.config import ModelMissing
    from jaxrec.hub.published import locate

    try:
        locate(race.model)
    except ModelMissing as error:
        return str(error)
    return ""


def say_the_gpu() -> None:
    """Prints which GPU JAX finds; ends the program where it finds none."""
    code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)"
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env=harness.quiet_environment("gpu"),
        capture_output=True,
        text=True,
    )
    platform, _, kind = asked.stdout.strip().partition(" ")
    if platform != "gpu":  # without its CUDA plugin JAX falls back on the CPU
        raise SystemExit(
            "bench: JAX finds no GPU here. It takes an NVIDIA GPU and: pip install -c constraints.txt -e '.[gpu]'"
        )
    print(f"on {kind}", flush=True)


def found(python: Path | None) -> str | None:
    """An interpreter's path if it is there; if not, its contenders' rows will say that they are not installed."""
    if python is not None and not python.exists():
        print(f"bench: no Python at {python}: its contenders' rows will be empty", file=sys.stderr)
        return None
    return str(python.absolute()) if python else None


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--race", action="append", default=[], help="a race's name or its beginning"
    )
    parser.add_argument(
        "--device", choices=CARDS, default="cpu", help="whose races: each device has its own"
    )
    parser.add_argument("--list", action="store_true", help="say which races there are")
    parser.add_argument("--peers", type=Path, help="the Python of the peers' environment")
    parser.add_argument("--recbole", type=Path, help="the Python of RecBole's own environment")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="where files go")
    parser.add_argument("--rounds", type=int, help="calm rounds a race needs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
