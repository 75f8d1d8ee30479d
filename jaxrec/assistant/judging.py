"""Floor 4: what is wrong with an answer, before anybody reads it: probabilities by label, for `dialogue.decision`.

A judge is (question, answer, sources, told) -> {label: probability}: `sources` are the prompt's passages, `told` is all
else that the model was told. `by_rules` knows words that the tenant never says (style), and figures and citations
that no source has (grounding); `PolicyJudge` is a trained policy head; `together` asks several judges and believes the
gravest.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxrec.config import RunError
from jaxrec.dialogue.memory import split_sentences
from jaxrec.models.personal.policy import PolicyBatch
from jaxrec.models.personal.policy_folder import PolicyModel, load_policy
from jaxrec.models.text.text_vectors import TextReader, Texts
from jaxrec.words import words

Judge = Callable[[str, str, Sequence[str], str], Mapping[str, float]]
_CITED = re.compile(r"\[(\d{1,3})\]")
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
_LISTED = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)  # the number of an entry states nothing


def by_rules(never: Sequence[str] = ()) -> Judge:
    """What can be seen without a model: certain, and far from everything. Labels: style and, with sources, grounding.

    never: words and phrases that the tenant never says.
    """
    barred = [tuple(words(one)) for one in never if words(one)]

    def judge(question: str, answer: str, sources: Sequence[str], told: str) -> dict[str, float]:
        found = {"style": float(any(_says(answer, one) for one in barred))}
        if sources:
            known = set(figures("\n".join([question, told, *sources])))
            cited = {int(number) for number in _CITED.findall(answer)}
            wrong = bool(cited - set(range(1, len(sources) + 1)))
            found["grounding"] = float(wrong or bool(set(figures(answer)) - known))
        return found

    return judge


def figures(text: str) -> list[str]:
    """The numbers of a text as they are written (12.50, 9:30), citations and numbers of lists left out."""
    return _FIGURE.findall(_LISTED.sub(" ", _CITED.sub(" ", text)))


def without_words(answer: str, never: Sequence[str]) -> str:
    """The answer without the sentences that say a word which the tenant never says: the least micro-edit."""
    barred = [tuple(words(one)) for one in never if words(one)]
    kept = [s for s in split_sentences(answer) if not any(_says(s, one) for one in barred)]
    return " ".join(kept)


def cited(answer: str, count: int) -> tuple[int, ...]:
    """The places of the sources that an answer names as [1], from 0, in order; those that there are."""
    numbers = dict.fromkeys(int(number) - 1 for number in _CITED.findall(answer))
    return tuple(number for number in numbers if 0 <= number < count)


def together(*judges: Judge) -> Judge:
    """Of several judges the gravest probability of each label."""

    def judge(question: str, answer: str, sources: Sequence[str], told: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for one in judges:
            for label, score in one(question, answer, sources, told).items():
                found[label] = max(score, found.get(label, 0.0))
        return found

    return judge


class PolicyJudge:
    """A trained policy head (`train.policy`) as a judge.

    model: of a head that takes no p, calibrated. read: texts to Z, as the head was trained on it. tenant: whose rules
    (temperature, thresholds); the shared ones for a stranger. longest: tokens of a text's Z, so that there is one
    program. Raises RunError for a head that was not calibrated, or that judges by a p.
    """

    def __init__(
        self,
        model: PolicyModel,
        read: Callable[[Sequence[str]], Texts],
        tenant: str = "",
        longest: int = 64,
    ):
        if model.calibration is None:
            raise RunError(
                "this policy head has no calibration: its scores are no probabilities yet"
            )
        if model.head.cfg.p_enters:
            raise RunError("this policy head judges by a p: name the variant no_p of the same run")
        self.model, self.read, self.longest = model, read, longest
        rules = zip(model.calibration.labels, model.calibration.of(tenant), strict=True)
        self._rules = dict(rules)
        self.thresholds = {label: rule.threshold for label, rule in self._rules.items()}

    @classmethod
    def load(cls, folder: str | Path, tenant: str = "") -> "PolicyJudge":
        """The judge of a folder that `train.policy` wrote, its encoder loaded once.

        folder: OUT/FOLD/no_p/model. tenant: whose rules. Raises RunError for the folder of something else.
        """
        model = load_policy(folder)
        reading = {k: v for k, v in model.facts.get("reading", {}).items() if k != "cache"}
        reader = TextReader(**reading)
        return cls(model, reader, tenant, reader.limit)

    def __call__(
        self, question: str, answer: str, sources: Sequence[str], told: str
    ) -> dict[str, float]:
        """Calibrated probabilities of every label.

        question, answer: what was asked, and what is judged. sources: what it should stand on, read as one text. told:
        of no interest to this judge.
        """
        grounds = ["\n".join(sources)] if sources else []
        texts = self._padded(self.read([question, answer, *grounds]))
        index = lambda i: np.array([i], np.int32)
        unknown = np.full((1, len(self._rules)), -1, np.float32)
        place = index(2 if grounds else -1)
        batch = PolicyBatch(index(0), index(1), place, unknown, index(0))
        logit_W = self.model.logits(texts, batch, rows=1)[0]
        return {
            label: float(rule.probability(logit_W[i : i + 1])[0])
            for i, (label, rule) in enumerate(self._rules.items())
        }

    def _padded(self, texts: Texts) -> Texts:
        """Z of three texts of `longest` tokens, whatever there is."""
        fill = lambda x, *more: np.pad(x, [(0, 3 - len(x)), *more])
        z_cls = fill(np.asarray(texts.z_cls_ID), (0, 0))
        if texts.z_seq_ILD is None:
            return Texts(z_cls)
        short = (0, max(self.longest - texts.z_seq_ILD.shape[1], 0))
        return Texts(
            z_cls,
            fill(np.asarray(texts.z_seq_ILD), short, (0, 0)),
            fill(np.asarray(texts.mask_IL), short),
        )


def _says(text: str, phrase: tuple[str, ...]) -> bool:
    said = words(text)
    return any(tuple(said[i : i + len(phrase)]) == phrase for i in range(len(said)))
