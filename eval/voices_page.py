"""The page of a demo run: what was done, the curves, who answers how, and what it cost, in one HTML file.

    python -m eval.voices_page --run runs/demo          writes runs/demo/report.html again

Everything on it comes from the files of the run: RUN/demo.json (times and memory), RUN/STAGE/metrics.jsonl,
config.json and environment.json, RUN/voices/results.json and RUN/voices/same_question.json. The page asks for nothing
from elsewhere: no script, no font, no picture. Its markup lies in voices_page.html.j2.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrec import config
from jaxrec.config import RunError
from jaxrec.eval.line_chart import HEIGHT, WIDTH, Chart, Series, chart
from jaxrec.files import write_atomically
from jaxrec.log import read_metrics

Record = Mapping[str, Any]
TEMPLATE = Path(__file__).with_suffix(".html.j2")

# What stands in results.json -> how the page calls it, and why it is there.
ROWS = {
    "own_p_gradient": ("own p, fitted", "found by gradient on the business's examples"),
    "own_p_encoder": ("own p, inferred", "from guide and examples in one pass"),
    "mean_p": ("the average p", "the mean of all training businesses"),
    "shuffled_p": ("another's p", "that of some other unseen business"),
    "no_p": ("no p", "p = 0: the head as it speaks to a stranger"),
    "own_lora": ("a LoRA of its own", "of the model's layers, by the same examples, in place of p"),
    "untuned": ("the model untuned", "nothing of it is changed, for nobody"),
    "own_p_right_page": (
        "own p, right page",
        "the page with the answer stands before the question",
    ),
    "own_p_retrieved_page": ("own p, found page", "a page found by the question's words"),
    "own_lora_right_page": ("own LoRA, right page", "as above"),
    "own_lora_retrieved_page": ("own LoRA, found page", "as above"),
    "untuned_right_page": ("untuned, right page", "as above"),
    "untuned_retrieved_page": ("untuned, found page", "as above"),
    "beside": ("the small model of make demo", "own p, fitted; it was trained from nothing"),
    "nearest": ("nearest neighbour", "copies the own example with the closest question"),
    "right_answer": ("the right answer", "what the business really said"),
}
CONTROLS = ("mean_p", "shuffled_p", "no_p")
GROUPS = {
    "generated": "Generated businesses, whose combination of style was never trained on",
    "hand-written": "Businesses written by hand",
}
# Curves: (stage, title, unit, ((kind of line in metrics.jsonl, metric, label), ...)).
CURVES = (
    ("pretrain", "Backbone: what it trains on", "nats a token", (("train", "nll", "training"),)),
    (
        "pretrain",
        "Backbone: texts that it has not read",
        "bits a byte",
        (("eval", "bits_per_byte", "held out"),),
    ),
    (
        "retrofit",
        "Retrofit: what Z must be good for",
        "loss",
        tuple(
            ("train", name, label)
            for name, label in (
                ("distil", "predict as the teacher"),
                ("denoise", "restore masked spans"),
                ("contrast", "tell paraphrases"),
                ("routing", "name the topic"),
            )
        ),
    ),
    (
        "universal",
        "One head for all voices",
        "nats a token",
        (
            ("train", "nll", "training"),
            ("eval", "held_nll", "trained businesses, new questions"),
            ("eval", "unseen_nll", "unseen businesses, p inferred"),
        ),
    ),
    (
        "personalize",
        "Onboarding: fitting p to the examples",
        "nats a token",
        (("train", "nll", "their examples"),),
    ),
)


@dataclasses.dataclass(frozen=True)
class PageConfig:
    """Which run to show, and where."""

    run: str = "runs/demo"  # the folder of a finished `python -m jaxrec.demo`
    beside: str = ""  # results.json of another model's voices, whose answers are shown too
    out: str = ""  # the HTML file; RUN/report.html when empty


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage left behind."""

    name: str
    about: str
    seconds: float
    metrics: Sequence[Record] = ()
    config: Record = dataclasses.field(default_factory=dict)
    environment: Record = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the page shows. `voices`: results.json of eval.voices; `questions`: those of eval.same_question."""

    stages: Sequence[Stage]
    voices: Record
    questions: Sequence[Record]
    quick: bool
    peak_gb: float
    beside: Record | None = None  # results.json of another model's eval.voices


def main(cfg: PageConfig) -> Path:
    """Writes the page, whole or not at all, and returns its path. Raises RunError for a run that is not finished."""
    path = Path(cfg.out or Path(cfg.run) / "report.html")
    run = read_run(Path(cfg.run))
    page = render(dataclasses.replace(run, beside=_read(Path(cfg.beside)) if cfg.beside else None))
    try:
        write_atomically(path, page)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return path


def read_run(folder: Path) -> Run:
    """Reads the files of a finished demo. Raises RunError that names the file that is not there, or is not whole."""
    told = _read(folder / "demo.json")
    stages = []
    for name, row in told["stages"].items():
        metrics = folder / name / "metrics.jsonl"
        trained = metrics.exists()
        stages.append(
            Stage(
                name,
                row["about"],
                row["seconds"],
                read_metrics(metrics) if trained else (),
                _read(folder / name / "config.json") if trained else {},
                _read(folder / name / "environment.json") if trained else {},
            )
        )
    voices = _read(folder / "voices" / "results.json")
    questions = _read(folder / "voices" / "same_question.json")["questions"]
    return Run(stages, voices, questions, told["quick"], told["peak_gb"])


def render(run: Run) -> str:
    """The page as HTML. Whatever stands in the record is text to it: the template escapes it all."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "duration": _duration}
    environment.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(
        run=run,
        rows=ROWS,
        verdicts=[v for group in GROUPS if (v := verdict(run.voices["rows"], group))],
        tables=[t for group in GROUPS if (t := table(run.voices["rows"], group, run.beside))],
        fetched=None if pretrained(run) else _of(run.stages, "retrofit", "backbone"),
        charts=charts(run.stages),
        size=(WIDTH, HEIGHT),
        heat=heat(run.voices["checks"]),
        samples=samples(run.voices["samples"], run.beside),
        facts=facts(run),
        total_s=sum(stage.seconds for stage in run.stages),
        examples=_of(run.stages, "personalize", "examples"),
    )


def verdict(rows: Sequence[Record], group: str) -> Record | None:
    """Own (fitted) p against the best of the controls, in style and in nll; None when the group was not asked."""
    of = {row["row"]: row for row in rows if row["tenants"] == group}
    if "own_p_gradient" not in of or not all(name in of for name in CONTROLS):
        return None
    own = of["own_p_gradient"]
    style = max((of[name] for name in CONTROLS), key=lambda row: row["style"])
    nll = min((of[name] for name in CONTROLS), key=lambda row: row["nll"])
    return {
        "group": group,
        "own": own,
        "style": style,
        "nll": nll,
        "wins": {"style": own["style"] > style["style"], "nll": own["nll"] < nll["nll"]},
    }


def pretrained(run: Run) -> bool:
    """Whether the run began with a model of its own."""
    return any(stage.name == "pretrain" for stage in run.stages)


def table(rows: Sequence[Record], group: str, beside: Record | None = None) -> Record | None:
    """The rows of a group in the order of `ROWS`; None when there are none.

    rows: of this run. group: whose. beside: another model's record; its own p's row is shown too.
    """
    of = {row["row"]: row for row in rows if row["tenants"] == group}
    for row in beside["rows"] if of and beside else ():
        if (row["row"], row["tenants"]) == ("own_p_gradient", group):
            of["beside"] = {**row, "row": "beside"}
    mine = [of[name] for name in ROWS if name in of]
    return {"title": GROUPS[group], "n": mine[0]["n"], "rows": mine} if mine else None


def charts(stages: Sequence[Stage]) -> list[Chart]:
    """A chart for each of `CURVES` that the run has numbers for."""
    metrics = {stage.name: stage.metrics for stage in stages}
    found = []
    for stage, title, unit, lines in CURVES:
        series = []
        for kind, metric, label in lines:
            points = tuple(
                (row["step"], row[metric])
                for row in metrics.get(stage, ())
                if row["kind"] == kind and row.get(metric) is not None
            )
            series.append(Series(label, points, dots=kind == "eval"))
        found.append(chart(title, unit, series))
    return [drawn for drawn in found if drawn]


def heat(checks: Sequence[Record]) -> Record:
    """Share of answers that met each check: {"columns", "mean", "tenants"}, own p above another's for each tenant."""
    columns = [key for key in checks[0] if key not in ("tenant", "name", "row")]
    tenants: dict[str, dict[str, Any]] = {}
    for row in checks:
        place = tenants.setdefault(row["tenant"], {"name": row["name"], "shares": {}})
        place["shares"][row["row"]] = [row[column] for column in columns]
    # Hand-written ones come last in the record, and first on the page: their names are not from a generator.
    ordered = list(tenants.values())[::-1]
    kinds = list(ordered[0]["shares"])
    mean = {
        kind: [
            sum(column) / len(column)
            for column in zip(*(t["shares"][kind] for t in ordered), strict=True)
        ]
        for kind in kinds
    }
    return {"columns": columns, "mean": mean, "tenants": ordered}


def samples(answers: Sequence[Record], beside: Record | None = None) -> list[Record]:
    """The sample answers by tenant, in the order of the record: [{"name", "asked": [...]}].

    answers: of this run. beside: another model's record; what it answered to the same questions is "beside".
    """
    others = {
        (row["tenant"], row["question"]): row for row in (beside or {"samples": ()})["samples"]
    }
    grouped: dict[str, list[Record]] = {}
    for row in answers:
        if other := others.get((row["tenant"], row["question"])):
            row = {**row, "beside": other["own_p_gradient"]}
        grouped.setdefault(row["tenant"], []).append(row)
    return [{"name": name, "asked": rows} for name, rows in grouped.items()]


def facts(run: Run) -> list[tuple[str, str]]:
    """The numbers of the run as (name, value)."""
    voices, machine = run.voices, run.voices["hardware"]
    devices = ", ".join(machine["accelerators"]) or f"{machine['cores']} cores of {machine['cpu']}"
    trained = [stage for stage in run.stages if stage.config]
    seeds = {stage.config["loop"]["seed"] for stage in trained} | {voices["seed"]}
    # A resumed run may have gone on with other code: all commits are said.
    commits = [*(stage.environment["commit"] for stage in trained), voices["commit"]]
    return [
        ("machine", f"{devices}, {machine['memory_gb']} GB of memory"),
        ("jax devices", ", ".join(dict.fromkeys(s.environment["devices"] for s in trained))),
        ("peak memory of the process", f"{run.peak_gb:.2f} GB"),
        ("seed", ", ".join(map(str, sorted(seeds)))),
        ("commit", ", then ".join(dict.fromkeys(map(_commit, commits)))),
        ("versions", ", ".join(f"{name} {v}" for name, v in voices["versions"].items())),
    ]


# ------------------------------------------------------------------------------------------ inside


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"there is no {path}: let `python -m jaxrec.demo` of that folder finish first"
        ) from None
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not whole ({error}): make it again") from None


def _of(stages: Sequence[Stage], name: str, field: str) -> Any:
    return next((s.config[field] for s in stages if s.name == name and field in s.config), None)


def _commit(told: str | None) -> str:
    """A commit in short; a "+" after it says that files differed from it."""
    if told is None:
        return "none: not a git checkout"
    commit, plus, _ = told.partition("+")
    return commit[:12] + (" with changes" if plus else "")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    config.run(main, PageConfig, __doc__)
