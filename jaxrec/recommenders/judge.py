"""Floor 4: what a person will say of a text: a probability for each label, learned from people's own judgements.

    judge = Judge.fit(read(JudgementsConfig(files=("my.csv",))))
    judge.predict(["a new text"], judge.person("P7"))          [1, C] what P7 will say
    judge.predict(["a new text"], judge.average)               what the average person would
    judge.predict(["a new text"])                              by the text alone, the same for everybody
    p = judge.onboard(["seen", "texts"], ["good", "bad"])      somebody new, from examples

A pooled model reads the text, the personal one how far a person's labels lie from it (`models/personal/judgement.py`).
"""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxrec import checkpoint, config, hub
from jaxrec.config import RunError
from jaxrec.data.judgement_folds import FEWEST_PEOPLE, Cards, Fold, assign_folds, cards, split
from jaxrec.data.judgements import Judgements
from jaxrec.models.personal.item_labels import ItemConfig, Projection, pooled_log_p, view_items
from jaxrec.models.personal.judgement import PersonConfig, Reading
from jaxrec.models.personal.profile import Gaussian, ProfileFitConfig
from jaxrec.models.text.item_vectors import TopLayers, item_vectors, side_by_side
from jaxrec.recommenders.judgement_fit import JudgementFit

KIND = "judge"
Text = str | tuple[str, ...]


class JudgeError(RunError, ValueError):
    """A person, a label or a text that a judge doesn't know, and what it knows."""


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """How a judge is fitted.

    backbone: of the texts' vectors: "" for MiniLM of its package, or a folder or hub id. layers: whose hidden states
    make z. limit: tokens of a text that are read. item, personal, fit: the pooled model, the personal one, and how p is
    fitted to somebody's examples. examples: of a held-out person, in the validation. cache: of the texts' vectors.
    """

    backbone: str = ""
    layers: tuple[int, ...] = (-2, -1)
    limit: int = 256
    item: ItemConfig = ItemConfig()
    personal: PersonConfig = PersonConfig()
    fit: ProfileFitConfig = ProfileFitConfig()
    examples: int = 30
    folds: int = 5
    seed: int = 0
    cache: str = "~/.cache/jaxrec/items"


@dataclasses.dataclass(frozen=True)
class Validation:
    """Judgements of unseen people on unseen texts: share right, and nats, by own p, the pooled model and the mean p."""

    people: int
    judgements: int
    accuracy: dict[str, float]
    nats: dict[str, float]


class Judge:
    """Made by `fit` or `load`. labels: in their order. people: whose p is known, row by row of `p_UE`.

    cfg: the settings it was fitted by. tree: all weights: projection, reading, the models, and p of the people.
    """

    def __init__(
        self, cfg: JudgeConfig, labels: Sequence[str], people: Sequence[str], tree: PyTree
    ):
        self.cfg, self.labels, self.people = cfg, tuple(labels), tuple(people)
        self.tree = tree
        self._fit = JudgementFit(cfg.personal, len(self.labels), cfg.fit)
        saved = tree["projection"]
        self._project = Projection(
            saved["mean"], saved["spread"], saved["direction"], np.float32(saved["scale"])
        )
        self._reading = Reading(tree["reading"]["logit"], tree["reading"]["spread"])

    # -------------------------------------------------------------------------------- making

    @classmethod
    def fit(
        cls,
        data: Judgements,
        cfg: JudgeConfig = JudgeConfig(),
        *,
        out: str | Path | None = None,
        progress: bool = False,
    ) -> "Judge":
        """Learns from all judgements. out: log and checkpoints of the fit. Raises NonFinite, ModelMissing.

        data: who gave which label to what. cfg: the settings. progress: bars on stderr.
        """
        every_N = np.ones(len(data.person_N), bool)
        return cls._fitted(data, every_N, _vectors(data.parts, cfg), cfg, out, progress)

    @classmethod
    def validate(cls, data: Judgements, cfg: JudgeConfig = JudgeConfig()) -> Validation | None:
        """A judge of four fifths of people and texts, asked for the others' judgements of the other texts.

        `examples` judgements of texts that it knows are shown of each. None where there are too few people or texts.
        """
        if len(data.people) < max(FEWEST_PEOPLE, 2 * cfg.folds) or len(data.parts) < 2 * cfg.folds:
            return None
        part = split(data, *assign_folds(data, cfg.folds, cfg.seed), 0, False)
        if not part.test_N.any() or not part.train_N.any():
            return None
        z_ID = _vectors(data.parts, cfg)
        return cls._fitted(data, part.train_N, z_ID, cfg)._asked(data, part, z_ID)

    @classmethod
    def _fitted(
        cls,
        data: Judgements,
        train_N: np.ndarray,
        z_ID: np.ndarray,
        cfg: JudgeConfig,
        out: str | Path | None = None,
        progress: bool = False,
    ) -> "Judge":
        view = view_items(data, train_N, z_ID, cfg.item, cfg.seed)
        reading = Reading.of(view, cfg.personal.content)
        frozen = reading(view.crossfit_IC, view.x_IW)
        people = np.unique(data.person_N[train_N])
        most = int(np.bincount(data.person_N[train_N]).max())
        width = min(2 * cfg.personal.most, most)
        known = cards(data, train_N, people, len(people), width, cfg.seed)
        fit = JudgementFit(cfg.personal, len(data.labels), cfg.fit)
        params = fit.train(frozen, known, cfg.seed, out, progress)
        given = (known.item_US, known.label_US, known.mask_US)
        start_UE = fit.infer(params, frozen, *given)
        spread_E = Gaussian.of(start_UE).std_E
        p_UE = fit.fit(params, frozen, start_UE, Gaussian(start_UE, spread_E), given)
        project = view.projection
        tree = {
            "personal": params,
            "pooled": view.params,
            "projection": {
                "mean": project.mean_D,
                "spread": project.spread_D,
                "direction": np.ascontiguousarray(project.direction_DW),
                "scale": np.asarray(project.scale),
            },
            "reading": {"logit": reading.logit_C, "spread": reading.spread_W},
            "base": np.log(view.overall_C),
            "p": p_UE,
            "spread": spread_E,
        }
        tree = _numpy(tree)
        return cls(cfg, data.labels, [data.people[person] for person in people], tree)

    def save(self, folder: str | Path) -> None:
        """Writes weights, everybody's p, and what it is called in facts.json."""
        facts = {"kind": KIND, "config": config.to_dict(self.cfg)}
        facts |= {"labels": self.labels, "people": self.people}
        checkpoint.save_params(folder, self.tree, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "Judge":
        """What `save` wrote. Raises CheckpointError where the folder is not whole, or holds something else."""
        facts = checkpoint.load_facts(folder)
        if facts.get("kind") != KIND:
            raise checkpoint.CheckpointError(
                f"{folder} holds no judge: train one by train.judgements"
            )
        cfg = config.from_dict(JudgeConfig, facts["config"])
        return cls(cfg, facts["labels"], facts["people"], _numpy(checkpoint.load_params(folder)))

    # -------------------------------------------------------------------------------- asking

    @property
    def average(self) -> Float[np.ndarray, " E"]:
        """The mean p of the known people."""
        return self.tree["p"].mean(0)

    def person(self, name: str) -> Float[np.ndarray, " E"]:
        """The p of somebody whose judgements were learned from. Raises JudgeError, with the nearest name."""
        if name in self.people:
            return self.tree["p"][self.people.index(name)]
        close = difflib.get_close_matches(name, self.people, n=1, cutoff=0.6)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise JudgeError(
            f"{name!r} is none of the {len(self.people):,} people that were learned from{hint} "
            "(somebody new is known by examples)"
        )

    def onboard(
        self, texts: Sequence[Text], labels: Sequence[str], gradient: bool = False
    ) -> Float[np.ndarray, " E"]:
        """The p of somebody new from examples, in one pass of the encoder. gradient: fitted to them from there.

        Raises JudgeError for lists of different length and for a label that was not learned.
        """
        if len(texts) != len(labels):
            raise JudgeError(f"{len(texts)} texts, but {len(labels)} labels")
        if unknown := [label for label in labels if label not in self.labels]:
            raise JudgeError(f"no label {unknown[0]!r}: there are {', '.join(self.labels)}")
        if not len(texts):
            return self.average
        frozen = self._read(self._z(texts))
        label_1S = np.array([[self.labels.index(label) for label in labels]])
        item_1S = np.arange(len(texts))[None]
        given = (item_1S, label_1S, np.ones_like(item_1S, bool))
        return self._p(frozen, given, gradient)[0]

    def predict(
        self, texts: Sequence[Text], p_E: Float[np.ndarray, " E"] | Array | None = None
    ) -> Float[np.ndarray, "I C"]:
        """The probability of each label for each text, by somebody's p, or without one by the text alone.

        A text of several parts (a post and a reply) is a tuple. Raises JudgeError for another number of parts than
        the judge has learned from.
        """
        frozen = self._read(self._z(texts))
        if p_E is None:
            return np.exp(np.asarray(frozen["base"], np.float64))
        item_1S = np.arange(len(texts))[None]
        log_p = self._fit.log_p(self.tree["personal"], frozen, jnp.asarray(p_E)[None], item_1S)
        return np.exp(np.asarray(log_p[0], np.float64))

    # -------------------------------------------------------------------------------- inside

    def _z(self, texts: Sequence[Text]) -> np.ndarray:
        parts = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
        texts_once = sorted({part for own in parts for part in own}, key=lambda t: (len(t), t))
        vectors_ND = self._encode(texts_once)
        several = len(self.tree["projection"]["mean"]) // vectors_ND.shape[1]
        if lost := [own for own in parts if len(own) != several]:
            raise JudgeError(f"this judge reads texts of {several} parts, not of {len(lost[0])}")
        return side_by_side(parts, texts_once, vectors_ND)

    @cached_property
    def _encode(self) -> Callable[[list[str]], np.ndarray]:
        """Texts to vectors, as those were made that the judge has learned from."""
        cfg = self.cfg
        return TopLayers(*hub.minilm(cfg.backbone or None), cfg.layers, limit=cfg.limit)

    def _read(self, z_ID: np.ndarray) -> PyTree:
        x_IW = self._project(z_ID)
        base_IC = np.broadcast_to(self.tree["base"], (len(x_IW), len(self.labels)))
        log_p_IC = pooled_log_p(self.tree["pooled"], self.cfg.item, x_IW, base_IC)
        return self._reading(log_p_IC, x_IW)

    def _p(self, frozen: PyTree, given: tuple, gradient: bool) -> np.ndarray:
        start = self._fit.infer(self.tree["personal"], frozen, *given)
        if gradient:
            prior = Gaussian(start, jnp.asarray(self.tree["spread"]))
            start = self._fit.fit(self.tree["personal"], frozen, start, prior, given)
        return np.asarray(start)

    def _asked(self, data: Judgements, part: Fold, z_ID: np.ndarray) -> Validation:
        """How well the unseen people's judgements are foreseen."""
        tested = np.unique(data.person_N[part.test_N])
        frozen = self._read(z_ID)
        width = lambda mask_N: int(np.bincount(data.person_N[mask_N], minlength=1).max())
        lay: Any = lambda mask_N, most: cards(
            data, mask_N, tested, len(tested), max(min(width(mask_N), most), 1), self.cfg.seed
        )
        shown: Cards = lay(part.support_N, self.cfg.examples)
        asked: Cards = lay(part.test_N, 10**6)
        own = self._p(frozen, (shown.item_US, shown.label_US, shown.mask_US), True)
        mean = np.broadcast_to(self.average, own.shape)
        log_p = lambda p: np.asarray(
            self._fit.log_p(self.tree["personal"], frozen, p, asked.item_US), np.float64
        )[asked.mask_US]
        ways = {
            "own p": log_p(own),
            "pooled": np.asarray(frozen["base"])[asked.item_US][asked.mask_US],
        }
        ways["mean p"] = log_p(mean)
        label_B = asked.label_US[asked.mask_US]
        right = {n: float((x.argmax(-1) == label_B).mean()) for n, x in ways.items()}
        picked = {n: x[np.arange(len(label_B)), label_B] for n, x in ways.items()}
        return Validation(
            len(tested), len(label_B), right, {n: float(-x.mean()) for n, x in picked.items()}
        )


def _vectors(parts: Sequence[tuple[str, ...]], cfg: JudgeConfig) -> np.ndarray:
    return item_vectors(
        parts, source=cfg.backbone or None, layers=cfg.layers, limit=cfg.limit, cache=cfg.cache
    )


def _numpy(tree: PyTree) -> PyTree:
    import jax

    return jax.tree.map(np.asarray, tree)
