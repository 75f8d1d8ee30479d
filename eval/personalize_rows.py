"""The personal model, and every row of the table for one fold.

    k examples (text, label, what the pooled model thought) --ProfileEncoder--> p --gradient--> p'
    question (what the pooled model thinks, leading components of z), p --Selector--> log p(label)

Trained on episodes: a person's judgements are cut at random into k that are shown and the rest that are asked.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxrec.eval.personalize_items import ItemConfig, ItemView, LoraConfig, lora_log_p
from jaxrec.eval.personalize_split import Cards
from jaxtyping import Array, Float, PyTree

from jaxrec import mesh as meshes
from jaxrec.losses.classification import cross_entropy
from jaxrec.models.personal.profile import (
    Evidence,
    FitConfig,
    Gaussian,
    ProfileEncoder,
    ProfileEncoderConfig,
    fit_profiles,
)
from jaxrec.models.personal.selector import Selector, SelectorConfig
from jaxrec.structs import Aux
from jaxrec.training import step as steps
from jaxrec.training.optimizer import OptConfig, make


@dataclasses.dataclass(frozen=True)
class PersonConfig:
    """The personal model: profile encoder and selector, trained together."""

    d_p: int = 128
    content: int = 4  # leading components of z that a person's taste may depend on
    rank: int = 8
    p_enters: tuple[str, ...] = ("add", "bilinear")
    width: int = 64
    queries: int = 4
    prior: int = 4
    most: int = 40  # examples in an episode
    batch: int = 64
    steps: int = 600
    opt: OptConfig = OptConfig(lr=3e-3, weight_decay=0.1, schedule="cosine")


@dataclasses.dataclass(frozen=True)
class Models:
    """Encoder and selector, joined; functions of (params, features)."""

    cfg: PersonConfig
    labels: int
    features: int

    @property
    def encoder(self) -> ProfileEncoder:
        """Infers p from labelled texts."""
        c = self.cfg
        d_z = self.features + 2 * self.labels
        return ProfileEncoder(ProfileEncoderConfig(d_z, c.d_p, 1, c.width, c.queries, 4, c.prior))

    @property
    def selector(self) -> Selector:
        """Scores the labels of a text; linear in what it reads, so that p has few ways to overfit."""
        c = self.cfg
        return Selector(SelectorConfig(self.features, c.d_p, self.labels, 0, c.rank, c.p_enters))

    def init(self, key: Array) -> PyTree:
        """Fresh weights of both."""
        one = jnp.zeros((1, 1), jnp.int32)
        frozen = {"features": jnp.zeros((1, self.features)), "base": jnp.zeros((1, self.labels))}
        evidence = self.evidence(frozen, one, one, one > 0)
        encoder = self.encoder.init(jax.random.fold_in(key, 0), evidence)["params"]
        p = jnp.zeros((1, self.cfg.d_p))
        selector = self.selector.init(
            jax.random.fold_in(key, 1), frozen["features"][one], p, base=frozen["base"][one]
        )
        return {"encoder": encoder, "selector": selector["params"]}

    def evidence(self, frozen: PyTree, item_US: Array, label_US: Array, mask_US: Array) -> Evidence:
        """Judgements as evidence: the text, the label, and how far the label is from the pooled model's guess."""
        given = jax.nn.one_hot(label_US, self.labels)
        surprise = given - jnp.exp(frozen["base"][item_US])
        z = jnp.concatenate([frozen["features"][item_US], given, surprise], -1)
        level = 2.0 * label_US / (self.labels - 1) - 1
        return Evidence(z, jnp.zeros_like(label_US), level, mask_US)

    def infer(
        self, params: PyTree, frozen: PyTree, item_US: Array, label_US: Array, mask_US: Array
    ) -> Array:
        """p [U, E] in one pass."""
        evidence = self.evidence(frozen, item_US, label_US, mask_US)
        return self.encoder.apply({"params": params["encoder"]}, evidence)

    def log_p(self, params: PyTree, frozen: PyTree, p_UE: Array, item_US: Array) -> Array:
        """Log p of each label [U, S, C]."""
        logits = self.selector.apply(
            {"params": params["selector"]},
            frozen["features"][item_US],
            p_UE,
            base=frozen["base"][item_US],
        )
        return jax.nn.log_softmax(logits)

    def fit(
        self,
        params: PyTree,
        frozen: PyTree,
        start_UE: Array,
        prior: Gaussian,
        cards: tuple,
        cfg: FitConfig,
    ) -> Array:
        """p [U, E] by gradient, everybody at once."""

        def loss(p_E: Array, own: tuple) -> Array:
            item_S, label_S, mask_S = own
            log_p = self.log_p(params, frozen, p_E[None], item_S[None])[0]
            return -jnp.sum(jnp.take_along_axis(log_p, label_S[:, None], 1)[:, 0] * mask_S)

        return fit_profiles(loss, start_UE, cards, prior, cfg)


def frozen_of(view: ItemView, content: int) -> PyTree:
    """What the personal model reads of each item: centred logits of the pooled model and the first components of z."""
    logit_IC = view.crossfit_IC - view.crossfit_IC.mean(1, keepdims=True)
    x_IW = view.x_IW[:, :content]
    own = np.concatenate([logit_IC - logit_IC.mean(0), x_IW / (x_IW.std(0) + 1e-3)], 1)
    return {"features": jnp.asarray(own, jnp.float32), "base": jnp.asarray(view.crossfit_IC)}


class Trainer:
    """Trains the personal model on a fold. One for all folds, so that each program is compiled once."""

    def __init__(self, cfg: PersonConfig, labels: int, fit: FitConfig):
        self.cfg, self.fit_cfg = cfg, fit
        self.models = Models(cfg, labels, labels + cfg.content)
        # so small a model runs fastest on one device, whatever the machine has
        self.mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
        self.optimizer = make(cfg.opt, cfg.steps)
        self._step = None
        self.infer = jax.jit(self.models.infer)
        self.log_p = jax.jit(self.models.log_p)
        self.fit = jax.jit(lambda *given: self.models.fit(*given, fit))

    def train(self, frozen: PyTree, known: Cards, seed: int) -> PyTree:
        """Weights after `steps` steps of episodes of the people in `known`."""
        params = self.models.init(jax.random.key(seed))
        state = steps.init_state(self.mesh, params, self.optimizer)
        if self._step is None:
            self._step = steps.make_step(self._loss, _asked, self.optimizer, state)
        frozen = meshes.place(self.mesh, frozen)
        rng, key = np.random.default_rng(seed), jax.random.key(seed + 1)
        for _ in range(self.cfg.steps):
            batch = episodes(known, self.cfg.batch, self.cfg.most, rng)
            batch = meshes.place_batch(self.mesh, batch, self.cfg.batch)
            state, metrics = self._step(state, frozen, batch, key)
        if not np.isfinite(metrics.fetch()["loss"]):
            raise FloatingPointError(
                "the personal model's loss is not finite: lower personal.opt.lr"
            )
        return jax.tree.map(jnp.asarray, jax.device_get(state.params))

    def _loss(
        self,
        params: PyTree,
        frozen: PyTree,
        extra: PyTree,
        batch: PyTree,
        totals: PyTree,
        key_B: Array,
    ) -> tuple[Array, Aux]:
        p = self.models.infer(params, frozen, batch["item"], batch["label"], batch["shown"])
        log_p = self.models.log_p(params, frozen, p, batch["item"])
        sums = cross_entropy(
            log_p.reshape(-1, log_p.shape[-1]),
            batch["label"].reshape(-1),
            batch["asked"].reshape(-1),
        )
        return sums["nll"] / totals["asked"], Aux({"accuracy": sums["correct"] / totals["asked"]})


def _asked(batch: PyTree) -> PyTree:
    return {"asked": jnp.maximum(jnp.sum(batch["asked"]), 1.0)}


def episodes(known: Cards, batch: int, most: int, rng: np.random.Generator) -> PyTree:
    """Random people, each with k judgements shown (k log-uniform from 0 to `most`) and the others asked."""
    row = rng.choice(np.flatnonzero(known.person_U >= 0), batch)
    mask = known.mask_US[row]
    place = np.argsort(np.argsort(np.where(mask, rng.random(mask.shape), 2.0), 1), 1)
    k = np.exp(rng.uniform(np.log(0.5), np.log(most + 1), (batch, 1))).astype(int)
    shown = mask & (place < k)
    asked = (mask & ~shown).astype(np.float32)
    label = known.label_US[row].astype(np.int32)
    return {
        "item": known.item_US[row].astype(np.int32),
        "label": label,
        "shown": shown,
        "asked": asked,
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """One fold, laid out. language_U is by person number."""

    view: ItemView
    known: Cards  # training people
    examples: Cards  # what the test people show
    asked: Cards  # what they are asked, row by row the same people
    language_U: np.ndarray
    ks: tuple[int, ...]
    headline: str
    seed: int


def fold_rows(
    trainer: Trainer, case: Case, item: ItemConfig, lora: LoraConfig
) -> tuple[dict[tuple[str, int], np.ndarray], PyTree]:
    """({(row, k): p of the labels [B, C] of the asked judgements, in the order of their mask}, weights) of one fold.

    mean_p and shuffled_p take the p's of the headline row: their mean over the *training* people of the same language
    at the same k, and the p of another test person of the same language.
    """
    view, known, examples, asked = case.view, case.known, case.examples, case.asked
    frozen = frozen_of(view, trainer.cfg.content)
    params = trainer.train(frozen, known, case.seed)
    flat = lambda log_p: np.exp(np.asarray(log_p, np.float64))[asked.mask_US]
    log_p = lambda p: flat(trainer.log_p(params, frozen, p, asked.item_US))
    item_B = asked.item_US[asked.mask_US]
    constant = {
        "global_mode": np.broadcast_to(view.overall_C, (len(item_B), len(view.overall_C))),
        "language_only": np.exp(view.base_IC[item_B]),
        "pooled": np.exp(view.log_p_IC[item_B]),
    }
    if len(set(case.language_U.tolist())) == 1:
        del constant["language_only"]
    most = _given(known, max(case.ks))
    spread_E = Gaussian.of(trainer.infer(params, frozen, *most)[known.person_U >= 0]).std_E
    spoken_U = np.where(asked.person_U < 0, -1, case.language_U[asked.person_U])
    other = another_of_same(spoken_U, np.random.default_rng(case.seed))
    alone = other == np.arange(len(other))
    out = {}
    for k in case.ks:
        own, theirs = (
            _both(trainer, params, frozen, spread_E, _given(c, k)) for c in (examples, known)
        )
        mean = mean_by_language(
            theirs[case.headline], known.person_U, asked.person_U, case.language_U
        )
        out |= {(row, k): p for row, p in constant.items()}
        out["mean_p", k] = log_p(mean)
        out["shuffled_p", k] = log_p(np.where(alone[:, None], mean, own[case.headline][other]))
        out |= {(row, k): log_p(p) for row, p in own.items()}
        out["own_lora", k] = flat(lora_log_p(view, examples, k, asked, item, lora, case.seed))
    return out, params


def _given(cards: Cards, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return cards.item_US, cards.label_US, cards.first(k)


def _both(
    trainer: Trainer, params: PyTree, frozen: PyTree, spread_E: Array, given: tuple
) -> dict[str, np.ndarray]:
    """p by the encoder, and p by gradient from there."""
    start = trainer.infer(params, frozen, *given)
    fitted = trainer.fit(params, frozen, start, Gaussian(start, spread_E), given)
    return {"own_p_encoder": np.asarray(start), "own_p_gradient": np.asarray(fitted)}


def mean_by_language(
    p_UE: np.ndarray, known_U: np.ndarray, asked_U: np.ndarray, language_U: np.ndarray
) -> Float[np.ndarray, "V E"]:
    """For each asked person the mean p of the known people of that language (of all, where there is none)."""
    real = known_U >= 0
    spoken = language_U[known_U[real]]
    means = np.broadcast_to(p_UE[real].mean(0), (len(asked_U), p_UE.shape[1])).copy()
    for row, person in enumerate(asked_U):
        if person >= 0 and (same := spoken == language_U[person]).any():
            means[row] = p_UE[real][same].mean(0)
    return means


def another_of_same(group_U: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row another random row of its group, everybody used once; itself only where it is alone."""
    other = np.arange(len(group_U))
    for group in np.unique(group_U):
        members = rng.permutation(np.flatnonzero(group_U == group))
        other[members] = np.roll(members, 1)
    return other
