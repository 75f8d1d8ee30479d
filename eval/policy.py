"""How well a trained policy head finds violations, and what knowing the tenant adds.

    JAXREC_DATA=... python -m eval.policy --model runs/policy_convabuse

Reads what `train.policy` wrote (OUT/FOLD/VARIANT/model) and asks it about the test rows. Rows: own_p; mean_p, the mean
p of the training tenants; shuffled_p, another test tenant's p; and the variants that were trained without p or without
the retrieved text. Thresholds are each tenant's, set on validation rows alone. Intervals: 95%, bootstrap over groups
(tenants, judges, or sub-flows). Writes results/policy/NAME.json.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np

from jaxrec import checkpoint, config, detection
from jaxrec.calibration import Calibration
from jaxrec.config import RunError
from jaxrec.data.policy_sets import TEST, TRAIN, PolicySet, PolicySetConfig, read_policy_set
from jaxrec.dialogue.decision import CAUTION, REMEDIES, decide
from jaxrec.models.personal.policy import PolicyBatch
from jaxrec.models.personal.policy_folder import PolicyModel, load_policy, rows_of
from jaxrec.models.text.text_vectors import Texts, read_texts
from jaxrec.results import print_table, write_results

VARIANTS = ("own_p", "no_p", "no_grounds")  # as jaxrec.train.policy writes them, the headline first
REMEDY = {**REMEDIES, "severe": "safe_fallback"}


@dataclasses.dataclass(frozen=True)
class PolicyEvalConfig:
    """Which trained heads, and where the record goes."""

    model: str = "runs/policy"
    name: str = ""  # of the record; the model folder's, by default
    headline: str = ""  # the first variant that was trained, by default
    draws: int = 1000
    seed: int = 0
    part: int = TEST  # 1: validation rows
    cache: str = "~/.cache/jaxrec/texts"
    out: str = "results/policy"


def main(cfg: PolicyEvalConfig) -> Path:
    """Scores every row of the table, prints it, writes the record; gives its path."""
    begun = time.monotonic()
    root = Path(cfg.model)
    folds = sorted(path for path in root.glob("[0-9]*") if path.is_dir())
    variants = [v for v in VARIANTS if folds and (folds[0] / v / "model").is_dir()]
    if not variants:
        raise RunError(f"there is no trained policy head in {root}: run jaxrec.train.policy first")
    facts = checkpoint.load_facts(folds[0] / variants[0] / "model")
    data = read_policy_set(config.from_dict(PolicySetConfig, facts["data"]))
    reading = {**facts["reading"], "cache": cfg.cache}
    texts = read_texts(data.texts, **{**reading, "layers": tuple(reading["layers"])})
    print(data.summary(), flush=True)

    scored: dict[str, list[Judged]] = {}
    for fold in folds:
        for variant in variants:
            model = load_policy(fold / variant / "model")
            if model.head.cfg.labels != data.labels or model.tenants != data.tenants:
                raise RunError(
                    f"{fold / variant} was trained on other labels or tenants: train again"
                )
            for row, judged in rows_with(cfg, model, data, texts, int(fold.name), variant).items():
                scored.setdefault(row, []).append(judged)
    whole = {row: Judged.joined(parts) for row, parts in scored.items()}
    headline = cfg.headline or variants[0]
    table, paired = measured(cfg, data, whole, headline)
    acts = decisions(data, whole[headline])
    name = cfg.name or root.name.removeprefix("policy_")
    print()
    columns = (
        "label",
        "row",
        "base",
        "auprc",
        "auprc_lo",
        "auprc_hi",
        "f1",
        "fpr",
        "recall",
        "ece",
        "choice",
    )
    print_table(table, columns)
    print(f"\n{headline} minus")
    print_table([p for p in paired if p["metric"] in ("auprc", "f1", "nll", "fpr")])
    print("\nactions, share of answers (rows: what is wrong with them)")
    print_table(acts)
    path = write_results(
        cfg.out, "policy", table, paired, {"eval": cfg, "train": facts["data"], "head": facts["policy"]},
        cfg.seed, time.monotonic() - begun, headline=headline, filename=f"{name}.json", dataset=name,
        decisions=acts, tested=len(whole[headline].tenant_B), groups=len(np.unique(whole[headline].group_B)),
        wanted=facts["wanted"], notes=NOTES, command=f"python -m eval.policy --model {cfg.model}",
    )  # fmt: skip
    print(f"\nwrote {path}")
    return path


NOTES = (
    "Positive = violation. Thresholds for the wanted false-positive rate were set on validation rows: by tenant where "
    "it had enough, else shared; a tenant who is in no training has the shared ones. AUPRC's floor is the base rate."
)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Test rows of one row of the table, over all folds: probabilities and thresholds [B, W] and what is true."""

    score_BW: np.ndarray
    threshold_BW: np.ndarray
    target_BW: np.ndarray
    question_B: np.ndarray
    tenant_B: np.ndarray
    group_B: np.ndarray

    @classmethod
    def joined(cls, parts: list["Judged"]) -> "Judged":
        """Folds one after the other."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def rows_with(
    cfg: PolicyEvalConfig,
    model: PolicyModel,
    data: PolicySet,
    texts: Texts,
    fold: int,
    variant: str,
) -> dict[str, Judged]:
    """The table's rows that one trained head gives: its own; of "own_p" also mean_p and shuffled_p."""
    chosen = data.split_FN[fold] == cfg.part
    t = data.tenant_N
    index = (x.astype(np.int32) for x in (data.question_N, data.answer_N, data.grounds_N))
    rows = PolicyBatch(
        *index,
        data.target_NW,
        t.astype(np.int32),
        data.shown_US[t],
        data.kind_US[t],
        data.label_US[t],
    )
    test = rows_of(rows, chosen)
    judged = lambda logits: _judged(model.calibration, data, logits, test, data.group_N[chosen])
    if not model.head.cfg.p_enters or variant != "own_p":
        return {variant: judged(model.logits(texts, test))}
    one_each = [int(np.flatnonzero(t == u)[0]) for u in range(len(data.tenants))]
    p_UE = model.profiles(texts, rows_of(rows, np.array(one_each)))
    trained = np.unique(t[data.split_FN[fold] == TRAIN])
    asked = np.unique(test.tenant_B)
    other = np.arange(len(data.tenants))
    order = np.random.default_rng(cfg.seed).permutation(asked)
    other[order] = np.roll(order, 1)
    mean = np.broadcast_to(p_UE[trained].mean(0), (len(test.tenant_B), p_UE.shape[1]))
    return {
        variant: judged(model.logits(texts, test, p_UE[test.tenant_B])),
        "mean_p": judged(model.logits(texts, test, mean)),
        "shuffled_p": judged(model.logits(texts, test, p_UE[other[test.tenant_B]])),
    }


def _judged(
    rules: Calibration, data: PolicySet, logits: np.ndarray, test: PolicyBatch, group_B: np.ndarray
) -> Judged:
    score, threshold = np.zeros(logits.shape), np.zeros(logits.shape)
    for tenant in np.unique(test.tenant_B):
        mine = test.tenant_B == tenant
        for w, rule in enumerate(rules.of(data.tenants[tenant])):
            score[mine, w] = rule.probability(logits[mine, w])
            threshold[mine, w] = rule.threshold
    return Judged(score, threshold, test.target_BW, test.question_B, test.tenant_B, group_B)


def measured(
    cfg: PolicyEvalConfig, data: PolicySet, whole: dict[str, Judged], headline: str
) -> tuple[list[dict], list[dict]]:
    """(a line a label and row, headline minus every other row), with intervals over groups."""
    table, paired = [], []
    for w, label in enumerate(data.labels):
        found = {row: _found(judged, w) for row, judged in whole.items()}
        for row, of in found.items():
            line = {"label": label, "row": row, "n": len(of.yes_B), "base": float(of.yes_B.mean())}
            for metric, x in detection.intervals(of, cfg.draws, cfg.seed).items():
                line |= {metric: x.value, f"{metric}_lo": x.lo, f"{metric}_hi": x.hi}
            line |= {"choice": _choice(whole[row], w)}
            table.append(line)
            if row != headline:
                gaps = detection.paired_difference(found[headline], of, cfg.draws, cfg.seed)
                paired += [
                    {"a": headline, "b": row, "label": label, "metric": metric,
                     "diff": x.value, "lo": x.lo, "hi": x.hi}
                    for metric, x in gaps.items()
                ]  # fmt: skip
    return table, paired


def _found(judged: Judged, w: int) -> detection.Detections:
    known = judged.target_BW[:, w] >= 0
    return detection.Detections(
        judged.score_BW[known, w],
        judged.target_BW[known, w] > 0.5,
        judged.threshold_BW[known, w],
        judged.group_B[known],
    )


def _choice(judged: Judged, w: int) -> float | None:
    """Of the answers to one question by one tenant, how often the least suspicious one is fine; ties count against.

    Only questions with both kinds of answers say something; None where there are none.
    """
    right = []
    keys = judged.question_B.astype(np.int64) * 100_000 + judged.tenant_B
    for key in np.unique(keys):
        mine = (keys == key) & (judged.target_BW[:, w] >= 0)
        yes, score = judged.target_BW[mine, w] > 0.5, judged.score_BW[mine, w]
        if yes.any() and not yes.all():
            right.append(score[~yes].min() < score[yes].min())
    return float(np.mean(right)) if right else None


def decisions(data: PolicySet, judged: Judged) -> list[dict]:
    """What is done with fine answers and with those that break each label: shares by action.

    A label that no remedy is known for is a person's business.
    """
    remedies = {label: REMEDY.get(label, "escalate") for label in data.labels}
    actions = []
    for score, threshold in zip(judged.score_BW, judged.threshold_BW, strict=True):
        by = lambda row: dict(zip(data.labels, map(float, row), strict=True))
        actions.append(decide(by(score), by(threshold), remedies).action)
    taken, wrong = np.array(actions), judged.target_BW > 0.5
    groups = {"nothing": ~wrong.any(1)}
    groups |= {label: wrong[:, w] for w, label in enumerate(data.labels)}
    return [
        {"wrong": name, "answers": int(of.sum())}
        | {action: float((taken[of] == action).mean()) for action in CAUTION}
        for name, of in groups.items()
        if of.any()
    ]


if __name__ == "__main__":
    config.run(main, PolicyEvalConfig, __doc__)
