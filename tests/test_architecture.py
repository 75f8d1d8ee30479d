"""The house keeps its own laws: floors, names, lengths, docstrings, and imports that cost nothing."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("jaxrec", "train", "eval", "bench", "configs")
FLOORS = [
    "types config start files cluster",
    "structs sites delta quant tables mesh elastic peers processes checkpoint run_record log usage metrics words "
    "text_metrics detection calibration ranking results program replication losses data world",
    "nn training retrieval people",
    "models hub dialogue rewards twin privacy",
    "objectives recommenders serve assistant",
    "demo chat recommend answer judge support forget verbs command launch tokenise __main__",
]
FLOOR_OF = {room: floor for floor, names in enumerate(FLOORS) for room in names.split()}
FLOOR_OF |= {
    "train": 5,
    "eval": 5,
    "bench": 5,
    "configs": 6,
    "": 0,
}  # "" is the package jaxrec itself
FORBIDDEN = {  # beyond the floors: room -> rooms it must not know
    "losses": {"nn", "models", "hub"},
    "training": {"nn", "models", "hub"},
    "retrieval": {"nn", "models", "hub"},
    "dialogue": {"nn", "models", "hub"},
    "rewards": {"nn", "models", "hub"},
    "twin": {"nn", "models", "hub"},
    "privacy": {"nn", "models"},
    "train": {"eval", "bench"},
    "eval": {"train", "bench"},
    "bench": {"eval", "train"},
}
# A command that joins floors, though it lies with the other commands of its group (`jaxrec data tokenise`).
COMMANDS = {"jaxrec.data.tokenise": "tokenise"}
BANNED = "utils util helper helpers manager factory registry service base misc common v2".split()
HEAVY = {"torch", "transformers", "datasets", "matplotlib", "sklearn", "faiss", "tensorboardX"}


def python_files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def canonical(module: str) -> str:
    """`jaxrec.train.x` and the checkout's `train.x` are one module."""
    return re.sub(r"^jaxrec\.(train|eval|configs)\b", r"\1", module)


def room_of(module: str) -> str:
    if module in COMMANDS:
        return COMMANDS[module]
    parts = canonical(module).split(".")
    return parts[0] if parts[0] != "jaxrec" else parts[1] if len(parts) > 1 else ""


@cache
def imports_of(path: Path) -> set[str]:
    """Every module named by an import in a file, wherever it stands; `from a import b` gives a.b if that is one."""
    here = module_of(path).split(".")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {canonical(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # Level 1 is the file's own package: for an __init__.py that is the module itself.
            up = node.level - (path.name == "__init__.py")
            stem = here[: len(here) - up] if node.level else []
            origin = ".".join([*stem, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = canonical(f"{origin}.{alias.name}")
                where = ROOT / inner.replace(".", "/")
                known = where.with_suffix(".py").exists() or (where / "__init__.py").exists()
                found.add(inner if known or origin.startswith("flax") else canonical(origin))
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imports_of(path) if name.split(".")[0] in ROOMS}


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of a directed graph, or an empty list."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := visit(target, [*trail, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_every_module_has_a_floor():
    lost = {module_of(p) for p in python_files("jaxrec") if room_of(module_of(p)) not in FLOOR_OF}
    assert not lost, f"no floor is named for {sorted(lost)}: say which in FLOORS, and in DESIGN"


def test_nothing_imports_upward():
    wrong = [
        f"{module_of(path)} (floor {FLOOR_OF[here]}) imports {name} (floor {FLOOR_OF[there]})"
        for path in python_files(*ROOMS)
        if (here := room_of(module_of(path))) in FLOOR_OF
        for name in ours(path)
        if (there := room_of(name)) in FLOOR_OF and FLOOR_OF[there] > FLOOR_OF[here]
    ]
    assert not wrong, wrong


def test_rooms_that_must_not_know_each_other():
    wrong = [
        f"{module_of(path)} imports {name}"
        for path in python_files(*ROOMS)
        for name in ours(path)
        if room_of(name) in FORBIDDEN.get(room_of(module_of(path)), ())
    ]
    assert not wrong, wrong


def neighbourhood_of(module: str) -> str:
    """The room, the sample world and the readers that know of it being one: it is made of the readers' own records."""
    room = room_of(module)
    return "data" if room == "world" else room


@pytest.mark.parametrize("of", [lambda name: name, neighbourhood_of], ids=["modules", "rooms"])
def test_no_cycles(of):
    graph: dict[str, set[str]] = {}
    for path in python_files(*ROOMS):
        here = of(module_of(path))
        graph.setdefault(here, set()).update(of(name) for name in ours(path))
        graph[here].discard(here)
    assert cycle_in(graph) == []


def test_linen_only_where_modules_are_written():
    wrong = [
        module_of(path)
        for path in python_files(*ROOMS)
        if room_of(module_of(path)) not in ("nn", "models")
        and any(name == "flax" or name.startswith("flax.linen") for name in imports_of(path))
    ]
    assert not wrong, f"flax.linen belongs to nn/ and models/: {wrong}"


def test_names():
    banned = []
    for path in python_files(*ROOMS, "tests"):
        classes = [
            n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)
        ]
        for name in [path.stem, path.parent.name, *classes]:
            words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
            banned += [f"{path.name}: {name}" for word in words if word.lower() in BANNED]
    assert not banned, f"these have not found their room yet: {banned}"


def test_file_lengths():
    long = {
        str(path.relative_to(ROOT)): count
        for path in python_files(*ROOMS, "tests")
        if (count := len(path.read_text().splitlines())) > 450
    }
    assert not long, f"more than 450 lines; is it still one idea? {long}"


def test_docstrings():
    bare = []
    for path in python_files(*ROOMS):
        tree = ast.parse(path.read_text())
        if path.name != "__init__.py" and not ast.get_docstring(tree):
            bare.append(module_of(path))
        bare += [
            f"{module_of(path)}.{node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ]
    assert not bare, f"without a docstring: {bare}"


def test_experiments_say_their_command():
    silent = [
        path.name
        for path in python_files("configs")
        if path.name != "__init__.py"
        and "python -m" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert not silent, f"an experiment's docstring is its command, cost and number: {silent}"


def test_readme_names_the_test_command():
    assert "make test" in (ROOT / "README.md").read_text()


# Run in a process of its own: each step in turn, and which heavy modules it brought in.
PROBE = """
import contextlib, importlib, io, json, runpy, sys
heavy, plain, scripts = json.loads(sys.argv[1])
seen = {}
def note(step):
    new = sorted({m.split(".")[0] for m in sys.modules} & set(heavy) - {x for v in seen.values() for x in v})
    seen[step] = new
for module in plain:
    importlib.import_module(module); note("import " + module)
for script in scripts:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            runpy.run_module(script, run_name="__main__")
        except SystemExit as stop:
            assert not stop.code, (script, stop.code)
    assert "--" in said.getvalue(), f"{script} --help prints no flags"
    note(script + " --help")
print(json.dumps({step: new for step, new in seen.items() if new}))
"""


def probe(heavy: set[str], plain: list[str], scripts: list[str]) -> dict[str, list[str]]:
    words = [sys.executable, "-c", PROBE, json.dumps([sorted(heavy), plain, scripts])]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_imports_and_help_are_light():
    scripts = [module_of(p) for p in python_files("train", "eval") if "__main__" in p.read_text()]
    assert scripts
    assert probe(HEAVY, ["jaxrec"], scripts) == {}


@pytest.mark.parametrize(
    "room",
    ["jaxrec.retrieval", "jaxrec.dialogue", "jaxrec.twin", "jaxrec.data.store.writing"],
)
def test_rooms_of_words_need_no_jax(room):
    if importlib.util.find_spec(room) is None:
        pytest.skip(f"{room} is not built yet")
    assert probe(HEAVY | {"jax", "flax"}, [room], []) == {}
