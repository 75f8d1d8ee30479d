"""Does p carry the person? People's own labels, unseen people on unseen items, k examples each.

    python -m eval.personalize configs/personal/popquorn.py --out runs/popquorn
    python -m eval.personalize configs/personal/popquorn.py --out runs/popquorn-validation --validate

Prints the table and writes OUT/results.json, OUT/k_curve.png and OUT/folds/, from which a stopped run goes on.
The claim is the gap between own p and the rows beside it: the pooled model with one bias a label of the person's own,
the pooled model alone, the mean p, another person's p.
`--validate` scores judgements that are in no test fold: that is where hyper-parameters and the headline were chosen.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Literal

import numpy as np

from jaxrec import config, metrics
from jaxrec.data.judgement_folds import Cards, assign_folds, cards, split
from jaxrec.data.judgements import Judgements, JudgementsConfig, read
from jaxrec.eval.personalize_plot import k_curve
from jaxrec.eval.personalize_rows import Case, fold_rows
from jaxrec.eval.personalize_speed import onboarding_speed
from jaxrec.files import content_hash, open_atomically
from jaxrec.models.personal.item_labels import ItemConfig, LoraConfig, view_items
from jaxrec.models.personal.judgement import PersonConfig
from jaxrec.models.personal.profile import ProfileFitConfig
from jaxrec.models.text.item_vectors import item_vectors
from jaxrec.recommenders.judgement_fit import JudgementFit
from jaxrec.results import distinct, kept_origin, origin, print_table, write_results

RIVALS = ("pooled", "mean_p", "shuffled_p", "own_bias", "own_lora", "language_only", "global_mode")
# Pairs beside those of the headline and its rivals.
FURTHER = (
    ("own_effects", "own_bias"),
    ("own_effects", "own_p_gradient"),
    ("own_effects", "pooled"),
)


@dataclasses.dataclass(frozen=True)
class PersonalizeConfig:
    """The data, the two models, and which row counts; named before the test folds are run."""

    name: str = "personalize"
    data: JudgementsConfig = JudgementsConfig()
    headline: Literal["own_p_encoder", "own_p_gradient"] = "own_p_gradient"
    ks: tuple[int, ...] = (0, 1, 5, 10, 30)
    folds: int = 5
    seed: int = 0
    validate: bool = False
    backbone: str | None = (
        None  # None: MiniLM of the PyPI package; else a folder or hub id of a BERT or MPNet
    )
    layers: tuple[int, ...] = (-2, -1)  # whose hidden states make z
    limit: int = 256  # tokens of a text
    item: ItemConfig = ItemConfig()
    personal: PersonConfig = PersonConfig()
    fit: ProfileFitConfig = ProfileFitConfig()
    lora: LoraConfig = LoraConfig()
    apart: tuple[str, ...] = ("en",)  # languages that are also reported alone
    draws: int = 2000  # of the bootstrap
    cache: str = "~/.cache/jaxrec/items"
    out: str = "runs/personalize"

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 0 or list(self.ks) != sorted(set(self.ks)):
            raise ValueError(f"ks must ascend from 0 or more without repeats, not {self.ks}")


def main(cfg: PersonalizeConfig) -> Path:
    """Runs all folds, prints the table, writes the results; gives the path of results.json."""
    begun = time.monotonic()
    data = read(cfg.data)
    print(data.summary(), flush=True)
    assign_folds(
        data, cfg.folds, cfg.seed
    )  # too few people: say so before the backbone reads anything
    z_ID = item_vectors(
        data.parts, source=cfg.backbone, layers=cfg.layers, limit=cfg.limit, cache=cfg.cache
    )
    probability, label_B, person_B, speed, trained = run_folds(cfg, data, z_ID)
    rows, paired = table(cfg, probability, label_B, person_B)
    language_U = data.language_of_people()
    apart = {}
    for language in cfg.apart if len(data.languages) > 1 else ():
        if language in data.languages:
            own = language_U[person_B] == data.languages.index(language)
            part = {key: p[own] for key, p in probability.items()}
            r, d = table(cfg, part, label_B[own], person_B[own])
            apart[language] = {"rows": r, "paired": d, "people": len(set(person_B[own].tolist()))}
    show(cfg, rows, paired, apart, speed)
    out = Path(cfg.out)
    facts = {"judgements": len(data.person_N), "people": len(data.people), "items": len(data.parts)}
    facts |= {"labels": data.labels, "languages": data.languages, "skipped": data.skipped}
    path = write_results(
        out, "personalize", rows, paired, cfg, cfg.seed, time.monotonic() - begun,
        headline=cfg.headline, dataset=cfg.name, data=facts, tested=len(label_B), apart=apart, onboarding=speed,
        protocol="validation" if cfg.validate else "test", notes=NOTES, trained=trained,
    )  # fmt: skip
    k_curve(rows, f"{cfg.name}: {len(set(person_B.tolist()))} unseen people", out / "k_curve.png")
    print(f"\nwrote {path} and {out / 'k_curve.png'}")
    return path


NOTES = (
    "Unseen people x unseen items: fold f tests its people on its items, trained on all others. The k examples of a "
    "test person are judgements of training items, drawn at random; a person with fewer gives all. mean_p and "
    "shuffled_p are made from the headline row's p at the same k, within a language. pooled knows the language's base "
    "rates. own_bias: the pooled model's logits and one bias a label, the most probable by the k examples; its ridge "
    "is chosen on training people. own_effects: such a bias and a slope along the direction in which the pooled "
    "model's logits differ most, a label each, the most probable under a prior learned from the training people. "
    "Intervals: 95%, bootstrap over people."
)


def run_folds(cfg: PersonalizeConfig, data: Judgements, z_ID: np.ndarray) -> tuple:
    """({(row, k): p [B, C]}, labels, people, onboarding speed, origins) of all tested judgements, fold after fold."""
    person_fold, item_fold = assign_folds(data, cfg.folds, cfg.seed)
    splits = [split(data, person_fold, item_fold, f, cfg.validate) for f in range(cfg.folds)]
    trainer = JudgementFit(cfg.personal, len(data.labels), cfg.fit)
    laid = [lay_out(data, s, cfg, splits) for s in splits]
    language_U = data.language_of_people()
    given = np.concatenate([c.mask_US.sum(1)[c.person_U >= 0] for _, c, _ in laid])
    for least, what in (
        (1, "no example at all: their p is a stranger's"),
        (max(cfg.ks), f"fewer than {max(cfg.ks)} examples: they give all"),
    ):
        if short := int((given < least).sum()):
            print(f"{short} of {len(given)} test people have {what}")
    done, speed, origins = [], None, []
    for f, (part, (known, examples, asked)) in enumerate(zip(splits, laid, strict=True)):
        kept = Path(cfg.out) / "folds" / f"{f}.npz"
        if (saved := _load(kept, _stamp(cfg, data))) is None:
            begun = time.monotonic()
            view = view_items(data, part.train_N, z_ID, cfg.item, cfg.seed + f)
            case = Case(
                view, known, examples, asked, language_U, cfg.ks, cfg.headline, cfg.seed + f
            )
            saved, params = fold_rows(trainer, case, cfg.item, cfg.lora)
            speed = speed or onboarding_speed(trainer, params, case, max(cfg.ks))
            _save(kept, saved, speed, _stamp(cfg, data), origin())
            saved = saved, speed, origin()
            print(f"fold {f + 1} of {cfg.folds}: {asked.mask_US.sum():,} judgements, item model of {view.steps} steps, "
                  f"{time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
        predicted, speed, trained = saved
        origins.append(trained)
        done.append(predicted)
    gather = lambda what: np.concatenate([what(c) for _, _, c in laid])
    label_B = gather(lambda c: c.label_US[c.mask_US])
    person_B = gather(lambda c: np.repeat(c.person_U, c.mask_US.sum(1)))
    return (
        {key: np.concatenate([d[key] for d in done]) for key in done[0]},
        label_B,
        person_B,
        speed,
        distinct(origins),
    )


def lay_out(
    data: Judgements, part, cfg: PersonalizeConfig, splits: list
) -> tuple[Cards, Cards, Cards]:
    """(training people, what test people show, what they are asked), in shapes that are the same for every fold."""

    def shape(name: str, most: int) -> tuple[int, int]:
        counts = [np.bincount(data.person_N[getattr(s, name)]) for s in splits]
        return max(int((c > 0).sum()) for c in counts), min(most, max(int(c.max()) for c in counts))

    def of(name: str, people: np.ndarray, rows: int, most: int) -> Cards:
        return cards(data, getattr(part, name), people, rows, shape(name, most)[1], cfg.seed)

    tested = np.unique(data.person_N[part.test_N])
    rows = shape("test_N", 1)[0]
    known = of(
        "train_N",
        np.unique(data.person_N[part.train_N]),
        shape("train_N", 1)[0],
        2 * cfg.personal.most,
    )
    return known, of("support_N", tested, rows, max(1, *cfg.ks)), of("test_N", tested, rows, 10**6)


def table(
    cfg: PersonalizeConfig, probability: dict, label_B: np.ndarray, person_B: np.ndarray
) -> tuple[list[dict], list[dict]]:
    """(rows, headline row minus each rival) with intervals over people."""
    scores = {key: metrics.by_person(p, label_B, person_B) for key, p in probability.items()}
    weight = metrics.resamples(len(set(person_B.tolist())), cfg.draws, cfg.seed)
    rows, paired = [], []
    gap = lambda a, b, k: [
        {"a": a, "b": b, "k": k, "metric": metric, "diff": x.value, "lo": x.lo, "hi": x.hi}
        for metric, x in metrics.paired_difference(scores[a, k], scores[b, k], weight).items()
    ]
    for (row, k), of in scores.items():
        line = {"row": row, "k": k}
        for metric, x in metrics.intervals(of, weight).items():
            line |= {metric: x.value, f"{metric}_lo": x.lo, f"{metric}_hi": x.hi}
        rows.append(line)
        if row in RIVALS:
            paired += gap(cfg.headline, row, k)
    for a, b in FURTHER:
        paired += [p for k in cfg.ks for p in gap(a, b, k)]
    return rows, paired


def show(cfg: PersonalizeConfig, rows: list, paired: list, apart: dict, speed: dict | None) -> None:
    """Prints what matters, for all and for each language apart."""
    most = max(cfg.ks)
    for name, part in {"all": {"rows": rows, "paired": paired}, **apart}.items():
        print(
            f"\n{cfg.name}, {name} (headline: {cfg.headline}{', VALIDATION' if cfg.validate else ''})"
        )
        columns = ("row", "k", "accuracy", "accuracy_lo", "accuracy_hi", "nll", "ece")
        fixed = ("global_mode", "language_only", "pooled")  # the same at every k
        print_table(
            [r for r in part["rows"] if r["row"] not in fixed or r["k"] == cfg.ks[0]], columns
        )
        print(f"\na minus b, k = {most}")
        print_table([p for p in part["paired"] if p["k"] == most and p["metric"] != "ece"],
                    ("a", "b", "metric", "diff", "lo", "hi"))  # fmt: skip
    if speed:
        print("\nonboarding: " + ", ".join(f"{name} {value:.3g}" for name, value in speed.items()))


def _stamp(cfg: PersonalizeConfig, data: Judgements) -> str:
    """What a fold's saved predictions depend on; where it differs, the fold is run anew."""
    free = dataclasses.replace(cfg, out="", cache="", draws=0, apart=())
    said = repr(
        (free, data.parts, data.person_N.tolist(), data.item_N.tolist(), data.label_N.tolist())
    )
    return content_hash(said)


def _save(path: Path, out: dict, speed: dict, stamp: str, trained: dict) -> None:
    with open_atomically(path, "wb") as file:
        said = {"stamp": stamp, "speed": json.dumps(speed), "trained": json.dumps(trained)}
        np.savez(file, **said, **{f"{row}@{k}": p for (row, k), p in out.items()})


def _load(path: Path, stamp: str) -> tuple[dict, dict, dict] | None:
    if not path.is_file():
        return None
    with np.load(path) as held:
        if str(held["stamp"]) != stamp:
            return None
        pairs = [(name.split("@"), held[name]) for name in held.files if "@" in name]
        speed = json.loads(str(held["speed"]))
        told = "trained" in held.files
        trained = json.loads(str(held["trained"])) if told else kept_origin(path)
    return {(row, int(k)): p for (row, k), p in pairs}, speed, trained


if __name__ == "__main__":
    config.run(main, PersonalizeConfig, __doc__)
