"""The `jaxrec` command: the same verbs from any folder, in a checkout and installed.

    jaxrec                            the verbs
    jaxrec train                      the stages; `jaxrec train sft --help` lists one's settings
    jaxrec train sft sft_sample       `python -m train.sft configs/language/sft_sample.py` of a checkout
    jaxrec experiments sft_sample     where that file lies, and what it says of itself

A script is found by its name and read only for the first line of its docstring until it runs, so lists cost nothing.
"""

import ast
import difflib
import importlib.util
import re
import runpy
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrec import config, start
from jaxrec.config import ConfigError, RunError

PROGRAMS = (
    "demo",
    "chat",
    "answer",
    "recommend",
    "judge",
    "forget",
    "serve",
    "twin",
)  # modules of jaxrec that run
GROUPS = {
    "train": "train a model, or what changes one, by one of the stages",
    "eval": "measure: answers, rankings, searches",
    "data": "fetch public data sets; turn data that does not fit into memory into a store",
    "launch": "start a stage on a cluster, and again when a host dies",
    "hub": "fetch models with real weights; GGUF files",
}
TAKES_EXPERIMENTS = ("train", "eval")
EXAMPLES = """\
    jaxrec demo                                        the whole story on a small world, without a network
    jaxrec hub fetch smollm2                           a small chat model that knows language, by its name from now on
    jaxrec train sft --base MODEL --data chats.jsonl   tune a model's folder on chats of your own
    jaxrec eval text --model MODEL --data chats.jsonl  its answers against theirs: ROUGE, similarity, nats
    jaxrec recommend --events orders.csv --user U1     ten items for somebody, and why
    jaxrec train sft sft_sample --opt.lr 1e-3          an experiment by its name, one setting changed"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `jaxrec ARGV`; what is wrong with it is said in one line, with exit status 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(words)
    except RunError as error:
        print(f"jaxrec: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except BrokenPipeError:  # `jaxrec experiments | head`
        config.leave_pipe()
    except KeyboardInterrupt:  # before or between what a script itself answers to
        print("\nstopped", file=sys.stderr)
        raise SystemExit(130) from None


def programs() -> dict[str, Path]:
    """What `jaxrec NAME` runs itself, of what this installation has."""
    here = Path(__file__).parent
    places = {name: (here / f"{name}.py", here / name / "__main__.py") for name in PROGRAMS}
    there = {name: next(filter(Path.is_file, paths), None) for name, paths in places.items()}
    return {name: path for name, path in there.items() if path is not None}


def scripts(group: str) -> dict[str, Path]:
    """The scripts of a group, by name: those that end with a `__main__` part."""
    room = importlib.util.find_spec(f"jaxrec.{group}")
    folders = room.submodule_search_locations or () if room else ()
    files = sorted(path for folder in folders for path in Path(folder).glob("[!_]*.py"))
    return {path.stem: path for path in files if '__name__ == "__main__"' in path.read_text()}


def summary(path: Path) -> str:
    """The first sentence of a file's docstring, without its module being imported."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.)\s|: `", first)[0].rstrip(".")


def overview() -> str:
    """What `jaxrec` alone prints."""
    verbs = {**{name: summary(path) for name, path in programs().items()}, **GROUPS}
    verbs["experiments"] = (
        "the experiment files that come with jaxrec; NAME: what one says of itself"
    )
    return (
        "usage: jaxrec VERB ...        jaxrec VERB --help says more of one\n\n"
        f"{_table(verbs)}\n\nexamples\n{EXAMPLES}\n"
    )


def _dispatch(words: list[str]) -> None:
    verb, rest = (words[0], words[1:]) if words else ("--help", [])
    if verb in ("-h", "--help", "help"):
        print(overview())
    elif verb == "--version":
        from jaxrec import __version__

        print(__version__)
    elif verb == "experiments":
        _experiments(rest)
    elif verb in GROUPS:
        _script(verb, rest)
    elif verb in programs():
        _run(f"jaxrec.{verb}", f"jaxrec {verb}", rest)
    else:
        known = [*programs(), *GROUPS, "experiments"]
        in_group = [f"{group} {verb}" for group in GROUPS if verb in scripts(group)]
        near = f"; did you mean `jaxrec {in_group[0]}`?" if in_group else _nearest(verb, known)
        raise ConfigError(f"there is no verb {verb!r}{near}")


def _script(group: str, rest: list[str]) -> None:
    """`jaxrec train ...`: the list of its scripts, or one of them."""
    known = scripts(group)
    if not rest or rest[0] in ("-h", "--help"):
        experiment = " [EXPERIMENT]" if group in TAKES_EXPERIMENTS else ""
        print(
            f"usage: jaxrec {group} NAME{experiment} [--flags]        NAME --help lists its flags\n"
        )
        print(_table({name: summary(path) for name, path in known.items()}))
        if group in TAKES_EXPERIMENTS:
            print(
                "\nEXPERIMENT is a Python file with `config = ...`, or a name that `jaxrec experiments` lists"
            )
        return
    name = rest[0].replace("-", "_")
    if name not in known:
        raise ConfigError(f"there is no `jaxrec {group} {rest[0]}`{_nearest(name, list(known))}")
    _run(f"jaxrec.{group}.{name}", f"jaxrec {group} {rest[0]}", rest[1:])


def _run(module: str, called: str, argv: list[str]) -> None:
    """Runs a script as `python -m` would; its usage line says how it was `called`."""
    start.as_command(module)
    sys.argv = [called, *argv]
    runpy.run_module(module, {"__called__": called}, run_name="__main__", alter_sys=True)


def _experiments(rest: list[str]) -> None:
    known = config.experiments()
    if "-h" in rest or "--help" in rest:
        print("usage: jaxrec experiments [NAME]        all of them, or what one says of itself")
    elif not rest:
        by_kind: dict[str, dict[str, str]] = {}
        for name, path in known.items():
            by_kind.setdefault(path.parent.name, {})[name] = f"{_command_of(path)}{summary(path)}"
        print("\n\n".join(f"{kind}\n{_table(names)}" for kind, names in by_kind.items()))
        print("\n`jaxrec experiments NAME` says what one costs and gives; run it by its name")
    else:
        path = config.find_experiment(rest[0])
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        print(f"{path}\n\n{config.as_commands(text)}")


def _command_of(path: Path) -> str:
    """Which verb takes an experiment, by its docstring's command: "train sft | "."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    calls = re.findall(r"python -m (?:jaxrec\.)?(train|eval|bench|launch)\.(\w+)([^`\n]*)", text)
    own = [(room, name) for room, name, rest in calls if f"{path.stem}.py" in rest]
    return f"{' '.join(own[0])} | " if own else ""


def _table(rows: Mapping[str, str]) -> str:
    wide = max(map(len, rows)) + 2
    room = min(shutil.get_terminal_size((110, 24)).columns, 110) - 4 - wide
    return "\n".join(
        f"    {name:{wide}}{textwrap.shorten(about, max(room, 40), placeholder=' ...')}"
        for name, about in rows.items()
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
