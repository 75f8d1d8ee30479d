"""The whole story on the sample world, without a network: from plain text to unseen businesses in their own voices.

    python -m jaxrec.demo                            some minutes on two cores; writes runs/demo/report.html
    python -m jaxrec.demo --quick --out runs/quick   a minute or two: a few steps a stage, to see that all works
    python -m jaxrec.demo --fresh                    begins anew what runs/demo already holds
    python -m jaxrec.demo --model smollm2 --out runs/demo_real     the same story on a real language model (98 MB)

The stages are the scripts of train/ and eval/ with the experiment files configs/*_sample.py, one after another:
pretrain, retrofit, universal, personalize, voices, same_question. What is complete in OUT is not done again, and a
stage that was interrupted goes on from its last checkpoint: after a Ctrl-C or a power cut, give the same command again.

With --model smollm2 nothing is pretrained: SmolLM2-135M-Instruct is fetched, p changes its own top layers, a page of
the business stands before a question, and the report shows its answers beside those of runs/demo, where that was run.
"""

import contextlib
import dataclasses
import errno
import importlib
import io
import json
import resource
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxrec import config, files
from jaxrec.config import RunError

NEEDED_MB = 300  # of disk, for everything in OUT
SHOWN = {
    "own_p_gradient": "own p, fitted",
    "own_p_encoder": "own p, inferred",
    "mean_p": "mean p",
    "shuffled_p": "another's p",
    "no_p": "no p",
    "own_lora": "a LoRA of its own",
    "untuned": "the model untuned",
    "own_p_right_page": "own p, right page",
    "own_p_retrieved_page": "own p, found page",
    "own_lora_right_page": "own LoRA, right page",
    "own_lora_retrieved_page": "own LoRA, found page",
    "untuned_right_page": "untuned, right page",
    "untuned_retrieved_page": "untuned, found page",
    "nearest": "nearest neighbour",
}


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Where the demo runs, and how much of it."""

    model: Literal["own", "smollm2"] = (
        "own"  # trained here from nothing, or a real one that is fetched
    )
    out: str = "runs/demo"  # the folder of everything it makes
    quick: bool = False  # a few steps a stage: shows that all works, its figures mean nothing
    fresh: bool = False  # begin anew, even where OUT holds a demo


@dataclasses.dataclass(frozen=True)
class Stage:
    """A script and its experiment; `result` is the file by which one sees that it is complete."""

    module: str
    config_class: str
    experiment: str
    result: str  # under OUT; its first part is the stage's folder
    quick: Mapping[str, Any]  # what the quick run changes, by dotted name
    about: str  # in plain words
    called: str = ""  # where a story has the same script twice

    @property
    def name(self) -> str:
        """The script's name, without its room."""
        return self.called or self.module.rsplit(".", 1)[-1]

    @property
    def folder(self) -> str:
        """Of all that it writes, under OUT."""
        return self.result.split("/")[0]


STAGES = (
    Stage(
        "jaxrec.train.pretrain",
        "PretrainConfig",
        "backbone_sample.py",
        "pretrain/model/tokenizer.json",
        {"loop.steps": 20, "loop.eval_every": 10},
        "a small language model learns to write, from nothing",
    ),
    Stage(
        "jaxrec.train.retrofit",
        "RetrofitConfig",
        "retrofit_sample.py",
        "retrofit/lfe/facts.json",
        {"loop.steps": 10, "loop.eval_every": 10},
        "it is frozen; a thin layer learns to turn what it reads into vectors Z",
    ),
    Stage(
        "jaxrec.train.universal",
        "UniversalConfig",
        "universal_sample.py",
        "universal/model/facts.json",
        {"loop.steps": 10, "loop.eval_every": 10},
        "one shared head learns the voices of many businesses, each from its p",
    ),
    Stage(
        "jaxrec.train.personalize",
        "PersonalizeConfig",
        "personalize_sample.py",
        "personalize/profile/facts.json",
        {"loop.steps": 10},
        "businesses that it never met are onboarded: a p for each, from examples",
    ),
    Stage(
        "jaxrec.eval.voices",
        "VoicesConfig",
        "voices_sample.py",
        "voices/results.json",
        {"dialogues": 1, "answer": 24},
        "they answer new questions, with their own p and with other ones",
    ),
    Stage(
        "jaxrec.eval.same_question",
        "SameQuestionConfig",
        "same_question_sample.py",
        "voices/same_question.json",
        {"answer": 24},
        "businesses of different temper answer the same questions",
    ),
)


@dataclasses.dataclass(frozen=True)
class Story:
    """The stages of a demo, and what it needs."""

    stages: tuple[Stage, ...] = STAGES
    paths: str = "runs/sample/"  # what the paths in its experiments begin with
    needed_mb: int = NEEDED_MB
    fetched: str = ""  # a published model that it stands on
    beside: tuple[
        str, ...
    ] = ()  # records of another demo's answers: the first that is there is shown


def _real_stages() -> tuple[Stage, ...]:
    """The stages on a published model: no pretraining, and each business also gets a LoRA of its own."""
    of = {stage.name: stage for stage in STAGES}
    experiments = {
        "retrofit": "a thin layer learns to turn what the model reads into vectors Z",
        "universal": "a rule A(p) learns the voices of many businesses, as changes of the model's top layers",
        "personalize": of["personalize"].about,
        "lora": "the same businesses get a LoRA of their own in place of p",
        "voices": of["voices"].about,
        "same_question": of["same_question"].about,
    }
    few = {  # the quick run also reads less, for here the states of each text cost more than the steps
        "retrofit": {"limit": 8},
        "universal": {"tenants": ("world:train:8",), "often": (), "held": (), "dialogues": 2, "examples": 1,
                      "checked": 2, "encoder_steps": 4, "loop.monitor": "held_nll"},
        "personalize": {"examples": 2},
        "lora": {"examples": 2},
        "voices": {"also": ("retrieved",), "who": ()},
    }  # fmt: skip
    found = []
    for name, about in experiments.items():
        like = of["personalize" if name == "lora" else name]
        quick = {**like.quick, **few.get(name, {})}
        changes = {"experiment": f"smollm2_{name}.py", "about": about, "quick": quick}
        if name == "lora":
            changes |= {"called": name, "result": "lora/profile/facts.json"}
        found.append(dataclasses.replace(like, **changes))
    return tuple(found)


STORIES = {
    "own": Story(),
    "smollm2": Story(
        _real_stages(),
        "runs/smollm2/",
        3000,
        "smollm2",
        ("runs/demo/voices/results.json", "results/voices/sample.json"),
    ),
}


def main(cfg: DemoConfig) -> Path:
    """Runs what is not complete yet, prints what came out, and returns the path of the report.

    Raises RunError where OUT cannot be written or holds a demo of other settings; SystemExit(130) after Ctrl-C.
    """
    out, story = Path(cfg.out).absolute(), STORIES[cfg.model]
    prepare(out, cfg.fresh, story)
    if cfg.quick:
        print("A quick run, a few steps a stage: its figures mean nothing.")
    settings = {
        stage.name: experiment(stage, out, cfg.quick, story.paths) for stage in story.stages
    }
    record = Record(out, cfg.quick)
    record.refuse_others(settings)
    page = importlib.import_module("jaxrec.eval.voices_page")
    beside = next((path for path in story.beside if Path(path).is_file()), "")
    if story.beside and not beside:
        print("There are no answers of `make demo` to show beside: run it first to have them.")
    try:
        if story.fetched:
            importlib.import_module("jaxrec.hub.fetch").fetch(story.fetched)
        run(settings, record, story.stages)
        report = page.main(page.PageConfig(run=str(out), beside=beside))
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on from here; what was saved is in {out}")
        raise SystemExit(130) from None
    except Exception as error:
        if not _is_full(error):
            raise
        raise RunError(
            f"the disk of {out} is full. What was saved is good: make room ({story.needed_mb} MB do for everything) "
            "and give the same command again"
        ) from error
    summary(out)
    print(f"\n{record.seconds() / 60:.1f} minutes, at most {record.peak_gb:.2f} GB of memory.")
    print(f"The report, for your browser: {report}")
    return report


def prepare(out: Path, fresh: bool, story: Story | None = None) -> None:
    """Makes OUT, sees that it can be written and has room. `fresh` removes what a demo made there, and only that.

    out, fresh: as of the config. story: which demo; the one that needs no network if not given.
    """
    story = story or Story(needed_mb=NEEDED_MB)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if fresh:
            for name in {*(stage.folder for stage in story.stages), Record.FILE, "report.html"}:
                path = out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        trial = out / ".writable"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise RunError(
            f"cannot write to {out}: {error.strerror}. Name another folder with --out"
        ) from error
    room = shutil.disk_usage(out).free / 2**20
    if room < story.needed_mb:
        raise RunError(
            f"{out} has room for {room:.0f} MB and the demo takes up to {story.needed_mb} MB: make room, or name "
            "another folder with --out"
        )


def experiment(stage: Stage, out: Path, quick: bool, old: str = "runs/sample/") -> Any:
    """The stage's configuration: its experiment file, with every path in it moved to OUT.

    stage: of a story. out: the demo's folder. quick: a few steps. old: what its paths begin with.
    """
    kind = getattr(importlib.import_module(stage.module), stage.config_class)
    cfg = move_paths(config.read_file(kind, stage.experiment), out, old)
    cfg = set_field(cfg, "out", str(out / stage.folder))
    if hasattr(cfg, "loop"):  # an interruption should cost seconds, not the stage
        cfg = set_field(cfg, "loop.save_every", 50)
    for name, value in stage.quick.items() if quick else ():
        cfg = set_field(cfg, name, value)
    return cfg


def move_paths(cfg: Any, out: Path, old: str = "runs/sample/") -> Any:
    """`cfg` with every string that begins with `old` beginning with OUT instead, nested ones too."""
    new = {}
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            new[field.name] = move_paths(value, out, old)
        elif isinstance(value, str) and value.startswith(old):
            new[field.name] = str(out / value.removeprefix(old))
    return dataclasses.replace(cfg, **new)


def set_field(cfg: Any, name: str, value: Any) -> Any:
    """`cfg` with one field, named with dots, set to another value."""
    first, _, rest = name.partition(".")
    inner = set_field(getattr(cfg, first), rest, value) if rest else value
    return dataclasses.replace(cfg, **{first: inner})


class Record:
    """OUT/demo.json: which stages are complete, with which settings, how long they took, the most memory in use.

    It is written after each stage, and on the way out of an interrupted one, so that its time counts.
    """

    FILE = "demo.json"

    def __init__(self, out: Path, quick: bool):
        self.out, self.quick, self.peak_gb = out, quick, 0.0
        self.stages: dict[str, dict[str, Any]] = {}
        path = out / self.FILE
        if path.exists():
            try:
                told = json.loads(path.read_text("utf-8"))
                self.stages, self.peak_gb = told["stages"], told["peak_gb"]
            except (json.JSONDecodeError, KeyError, TypeError):
                raise RunError(f"{path} is damaged: begin anew with --fresh") from None

    def refuse_others(self, settings: Mapping[str, Any]) -> None:
        """Raises RunError if OUT holds stages that ran with other settings than these."""
        for name, row in self.stages.items():
            now = json.loads(json.dumps(config.to_dict(settings[name])))
            if found := _difference(row["config"], now):
                field, old, new = found
                raise RunError(
                    f"{self.out} holds a demo with other settings: {name} ran with {field} = {old}, this one has "
                    f"{new}. Begin anew with --fresh, or name another folder with --out"
                )

    def complete(self, stage: Stage) -> bool:
        """Whether the stage ended, and its result is still there."""
        done = self.stages.get(stage.name, {}).get("done", False)
        return done and (self.out / stage.result).exists()

    @contextlib.contextmanager
    def timed(self, stage: Stage, cfg: Any):
        """Adds the time of the block to the stage's, and marks the stage as done if the block ends well."""
        row = self.stages.setdefault(stage.name, {"seconds": 0.0})
        row |= {"about": stage.about, "config": config.to_dict(cfg), "done": False}
        before, began = row["seconds"], time.monotonic()
        try:
            yield row
            row["done"] = True
        finally:
            row["seconds"] = round(before + time.monotonic() - began, 1)
            self.peak_gb = max(self.peak_gb, peak_memory_gb())
            told = {"quick": self.quick, "peak_gb": self.peak_gb, "stages": self.stages}
            files.write_json(self.out / self.FILE, told)

    def seconds(self) -> float:
        """Of all stages, interrupted attempts included."""
        return sum(row["seconds"] for row in self.stages.values())


def run(settings: Mapping[str, Any], record: Record, stages: Sequence[Stage] = STAGES) -> None:
    """Runs the stages in turn. After the first one that had something to do, none is taken as complete."""
    ran = False
    for number, stage in enumerate(stages, 1):
        head, cfg = f"[{number}/{len(stages)}] {stage.name}", settings[stage.name]
        if record.complete(stage) and not ran:
            print(f"{head}: complete, not done again", flush=True)
            continue
        ran = True
        print(f"{head}: {stage.about}", flush=True)
        if hasattr(cfg, "loop"):
            cfg = set_field(cfg, "loop.progress", sys.stderr.isatty())
        with record.timed(stage, settings[stage.name]) as row, _silent():
            importlib.import_module(stage.module).main(cfg)
        print(f"      {row['seconds']:.0f} s", flush=True)


def summary(out: Path) -> None:
    """Prints the table, and what one business that was never trained on answers."""
    from jaxrec.results import print_table

    rows = json.loads((out / "voices" / "results.json").read_text("utf-8"))["rows"]
    for group in dict.fromkeys(row["tenants"] for row in rows):
        print(f"\nAnswers of unseen {group} businesses to new questions")
        shown = [row for row in rows if row["tenants"] == group and row["row"] in SHOWN]
        columns = ("nll", "style", "facts", "f1", "n")
        print_table([{"with": SHOWN[row["row"]], **{c: row[c] for c in columns}} for row in shown])
    print("nll: nats a token of the right answer; style: share of nine checks that an answer meets")
    questions = json.loads((out / "voices" / "same_question.json").read_text("utf-8"))["questions"]
    print(f"\n{questions[0]['answers'][0]['name']}, never trained on, with its own p")
    for asked in questions:
        print(_wrapped("  asked    ", asked["question"]))
        print(_wrapped("  answers  ", asked["answers"][0]["answer"]))


def peak_memory_gb() -> float:
    """The most memory this process ever held (macOS counts in bytes, the others in KB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**30 if sys.platform == "darwin" else 2**20), 3)


# ------------------------------------------------------------------------------------------ inside


@contextlib.contextmanager
def _silent():
    """Swallows what a script prints: its table comes again, smaller, at the end. Progress bars are on stderr."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _wrapped(head: str, text: str) -> str:
    """The text after a heading, its further lines below its own beginning; control characters made visible."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.fill(
        plain.strip() or "(no words)", 96, initial_indent=head, subsequent_indent=" " * len(head)
    )


def _difference(old: Any, new: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """(dotted name, old, new) of the first value that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names: Sequence[str] = list(dict.fromkeys([*old, *new]))
        inner = (_difference(old.get(n), new.get(n), f"{path}.{n}".lstrip(".")) for n in names)
        return next(filter(None, inner), None)
    return None if old == new else (path, old, new)


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk is at the root of an error; libraries wrap it, some in words alone."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    config.run(main, DemoConfig, __doc__)
