"""Floor 0: an experiment file plus command-line flags -> one frozen dataclass; and that dataclass -> JSON.

An experiment file is a Python file that defines `config = XConfig(...)`; a script is run as
`python -m train.x configs/file.py --opt.lr 1e-3`, where the flags override single fields of what the file gives.
Whatever is wrong with either is said in one line that begins with "config:", and the exit status is 2.
"""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.util
import io
import json
import os
import re
import runpy
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from jaxrec.start import say_so

T = TypeVar("T")
LISTED = 24  # fields; of more only those of the outermost part are named in a message


class RunError(Exception):
    """What the person who runs a command can put right: its message is the whole story, no traceback needed.

    Subclasses say their exit status. `run` prints the message as one line and ends the program with it.
    """

    status = 1


class ConfigError(RunError, ValueError):
    """What is wrong with an experiment file or with a flag, in one line."""

    status = 2


def run(
    main: Callable[[T], Any],
    config_class: type[T],
    description: str | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """What a script ends with: `config.run(main, XConfig, __doc__)`. A RunError is said in one line.

    So is what the operating system refuses (no permission, no room, no such folder): it comes with an errno; and
    Ctrl-C, with exit status 130 as shells have it.

    main: takes the config. config_class: a frozen dataclass, whose fields are the flags. description: of `--help`.
    argv: instead of the command line's.
    """
    cfg = None
    try:
        cfg = cli(config_class, description, argv)
        say_so()
        main(cfg)
    except RunError as error:
        fail(error, f"error: {error}", error.status)
    except KeyboardInterrupt as stop:
        saved = Path(getattr(cfg, "out", "")) / "checkpoints"
        again = f"; the same command goes on from {saved}" if saved.is_dir() else ""
        fail(stop, f"\nstopped{again}", 130)
    except BrokenPipeError as error:
        _hear(error, "nobody reads its output", 128 + 13)
        leave_pipe()
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        fail(error, f"error: {where}{error.strerror}", RunError.status)


# Who must hear that this process ends with an error, before it does: (error, what is said of it, exit status).
on_failure: list[Callable[[BaseException, str, int], None]] = []


def fail(error: BaseException, line: str, status: int) -> NoReturn:
    """Ends the program with one line on stderr and a status; whoever is in `on_failure` hears of it first."""
    _hear(error, line.strip().removeprefix("error: "), status)
    print(line, file=sys.stderr)
    raise SystemExit(status) from None


def _hear(error: BaseException, text: str, status: int) -> None:
    for hear in on_failure:
        hear(error, text, status)


def leave_pipe() -> NoReturn:
    """Ends the program quietly when nobody reads its output any more (`... | head`), with the status of SIGPIPE."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
    raise SystemExit(128 + 13) from None


def cli(
    config_class: type[T], description: str | None = None, argv: Sequence[str] | None = None
) -> T:
    """The configuration of a script: `load`, but a mistake ends the program with one line and status 2."""
    try:
        return load(config_class, sys.argv[1:] if argv is None else argv, description)
    except ConfigError as error:
        print(f"config: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None


def load(config_class: type[T], argv: Sequence[str], description: str | None = None) -> T:
    """Reads `[FILE] [--flag value ...]` into an instance of `config_class`.

    Without FILE the defaults of the class are the start. Raises ConfigError for an unknown field (with the nearest
    known one), a wrong type, a missing file, a file without `config`, and a `config` of another class.
    """
    argv = list(argv)
    if argv and not argv[0].startswith("-"):
        start = read_file(config_class, argv.pop(0))
    else:
        start = _call(config_class, config_class)
    _refuse_unknown_flags(start, argv)
    said, text = io.StringIO(), description or ""
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                config_class,
                args=argv,
                default=start,
                description=as_commands(text) if _called() else text,
                prog=_command(),
                config=(
                    tyro.conf.AvoidSubcommands,
                ),  # an optional part is set in the file, not by a verb
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise ConfigError(_one_line(said.getvalue())) from None
    except (ValueError, TypeError) as error:  # a dataclass's own __post_init__ refused the value
        raise ConfigError(str(error)) from None


def read_file(config_class: type[T], path: str | Path) -> T:
    """The `config` of an experiment file, checked against the annotations of `config_class`."""
    path = find_experiment(path)
    _alias_running_script()
    names = _call(config_class, lambda: runpy.run_path(str(path)), where=f"{path}: ")
    if "config" not in names:
        raise ConfigError(
            f"{path} defines no `config`; it should end with config = {config_class.__name__}(...)"
        )
    value = names["config"]
    if not isinstance(value, config_class):
        raise ConfigError(
            f"{path} defines a {type(value).__name__}, but this script takes a {config_class.__name__}"
        )
    if problem := next(_problems(value, config_class, "config"), None):
        raise ConfigError(f"{path}: {problem}")
    return value


def experiments() -> dict[str, Path]:
    """The experiment files that come with jaxrec, by name ("sft_sample")."""
    room = importlib.util.find_spec("jaxrec.configs")
    folders = room.submodule_search_locations or () if room else ()
    files = [path for folder in folders for path in Path(folder).rglob("[!_]*.py")]
    return {path.stem: path for path in sorted(files)}


def find_experiment(path: str | Path) -> Path:
    """The experiment file at `path`; else the one of jaxrec's own with that name, wherever the program was started.

    `sft_sample`, `configs/sft_sample.py` and `configs/language/sft_sample.py` are the same file. Raises ConfigError,
    with the nearest name, where there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    known = experiments()
    of_ours = path.parent == Path() or path.parts[0] == "configs"
    if of_ours and path.suffix in ("", ".py") and path.stem in known:
        return known[path.stem]
    close = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"there is no experiment file {path}{hint}")


def to_dict(config: Any) -> dict[str, Any]:
    """A nested dict of what JSON can hold: tuples become lists, paths strings, functions and types their names."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def dump(config: Any, path: str | Path) -> None:
    """Writes the resolved configuration as JSON."""
    Path(path).write_text(json.dumps(to_dict(config), indent=2) + "\n")


def from_dict(config_class: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_dict`, for what was written beside a saved model. Raises ConfigError for an unknown field."""
    hints = get_type_hints(config_class)
    unknown = set(values) - set(hints)
    if unknown:
        raise ConfigError(
            f"{config_class.__name__} has no field {sorted(unknown)[0]!r}: saved by another version?"
        )

    def value_of(hint: Any, value: Any) -> Any:
        nested = next(_dataclasses_in(hint), None)
        if nested is not None and isinstance(value, Mapping):
            return from_dict(nested, value)
        return tuple(value) if isinstance(value, list) else value

    return config_class(**{name: value_of(hints[name], value) for name, value in values.items()})


def fields(config_class: type, prefix: str = "") -> Iterator[str]:
    """Every field as a dotted name ("opt.lr"), nested dataclasses included."""
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        yield prefix + field.name
        for nested in _dataclasses_in(hints[field.name]):
            yield from fields(nested, f"{prefix}{field.name}.")


def by_path(path: str) -> Callable[..., Any]:
    """What "package.module:callable" names; a module may lie in the folder that the program was started in.

    Raises ConfigError where it cannot be imported or is no callable.
    """
    module, colon, attribute = path.partition(":")
    if not colon:
        raise ConfigError(f"{path!r} is not of the form package.module:callable")
    if "" not in sys.path and (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # last, so that a folder `datasets` of one's own hides no library
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigError(f"{path!r} is a {type(found).__name__}, not a callable")
    return found


def as_commands(text: str) -> str:
    """A docstring with its `python -m train.x configs/KIND/y.py` as `jaxrec train x y`, which needs no checkout."""
    command = r"python -m (?:jaxrec\.(?=\w)|(?=train\.|eval\.))([a-z_.]+\w)"
    text = re.sub(command, lambda found: f"jaxrec {found[1].replace('.', ' ')}", text)
    return re.sub(r"\bconfigs/(?:\w+/)?(\w+)\.py", r"\1", text)


# ------------------------------------------------------------------------------------------ inside


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if isinstance(value, Path) else getattr(value, "__qualname__", str(value))


def _alias_running_script() -> None:
    """Lets an experiment file's `from jaxrec.train.x import XConfig` find the class of the running script.

    Without it `python -m train.x` would load train/x.py twice, and the two XConfig would differ.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if main is not None and spec is not None:
        name = spec.name if spec.name.startswith("jaxrec.") else f"jaxrec.{spec.name}"
        for alias in (spec.name, name):
            sys.modules.setdefault(alias, main)


def _command() -> str:
    """How the running script was called, for the usage line."""
    if called := _called():
        return f"{called} [FILE]"
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return (
        f"python -m {spec.name.removesuffix('.__main__')} [FILE]"
        if spec is not None
        else Path(sys.argv[0]).name
    )


def _called() -> str:
    """The verbs of the `jaxrec` command, which says them to the script that it runs; "" where that runs by itself."""
    return getattr(sys.modules.get("__main__"), "__called__", "")


def _call(config_class: type, make: Any, where: str = "") -> Any:
    """Runs `make`; a keyword that no dataclass knows becomes a ConfigError with the nearest field."""
    try:
        return make()
    except TypeError as error:
        unknown = re.search(
            r"([\w.]+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)
        )
        if not unknown:
            raise ConfigError(f"{where}{error}") from error
        known = []
        if dataclasses.is_dataclass(config_class):
            known = [f.rsplit(".", 1)[-1] for f in fields(config_class)]
        raise ConfigError(
            f"{where}{unknown[1]} has no field {unknown[2]!r}{_nearest(unknown[2], known)}"
        ) from None
    except (ImportError, SyntaxError, NameError, ValueError) as error:
        raise ConfigError(f"{where}{type(error).__name__}: {error}") from error


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close or not known:
        return f"; did you mean {close[0]!r}?" if close else ""
    if len(known) > LISTED:
        known = [name for name in known if "." not in name]
    return f"; it has {', '.join(dict.fromkeys(known))}"


def _flags_of(start: Any, prefix: str = "") -> Iterator[str]:
    """`fields`, but of a part that may be of several classes only those of the class that it is of."""
    hints = get_type_hints(type(start))
    for field in dataclasses.fields(start):
        part = getattr(start, field.name)
        yield prefix + field.name
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            yield from _flags_of(part, f"{prefix}{field.name}.")
        else:
            for nested in _dataclasses_in(hints[field.name]):
                yield from fields(nested, f"{prefix}{field.name}.")


def _refuse_unknown_flags(start: Any, argv: Sequence[str]) -> None:
    """Only the plain form `--a.b` is judged here; what it does not know is left to tyro (subcommands, booleans)."""
    known = list(_flags_of(start))
    for token in argv:
        name = token[2:].split("=", 1)[0].replace("-", "_")
        if not token.startswith("--") or token == "--help" or ":" in name:
            continue
        positive = re.sub(r"(^|\.)no_", r"\1", name)  # tyro's --no-flag of a boolean
        if name not in known and positive not in known:
            raise ConfigError(f"unknown field --{name}{_nearest(name, known)}")


def _one_line(box: str) -> str:
    """tyro's framed message as one line, without the help text that follows it."""
    lines = [line.strip(" │╭╮╰╯\n") for line in box.splitlines()]
    lines = [line for line in lines[1:] if line]
    end = next((i for i, line in enumerate(lines) if set(line) <= {"─"}), len(lines))
    return " ".join(lines[:end])


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    elif get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _dataclasses_in(part)


def _problems(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Where a value does not fit its annotation. Annotations that it does not know are let through."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if all(next(_problems(value, part, path), None) for part in args):
            yield f"{path} should be {hint}, not {value!r}"
    elif origin is Literal:
        if value not in args:
            near = _nearest(str(value), [str(a) for a in args])
            yield f"{path} should be one of {list(args)}, not {value!r}{near if 'mean' in near else ''}"
    elif origin is tuple and isinstance(value, tuple):
        wanted = [args[0]] * len(value) if args[1:] == (Ellipsis,) else args
        if len(wanted) != len(value):
            yield f"{path} should have {len(wanted)} values, not {len(value)}"
        for i, (part, part_hint) in enumerate(zip(value, wanted, strict=False)):
            yield from _problems(part, part_hint, f"{path}[{i}]")
    elif isinstance(origin or hint, type):
        if not _fits(value, origin or hint):
            yield f"{path} should be {getattr(hint, '__name__', hint)}, not {value!r}"
        elif dataclasses.is_dataclass(value):
            hints = get_type_hints(type(value))
            for field in dataclasses.fields(value):
                yield from _problems(
                    getattr(value, field.name), hints[field.name], f"{path}.{field.name}"
                )


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
