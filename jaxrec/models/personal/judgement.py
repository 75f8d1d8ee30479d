"""Floor 3: the personal model of judgements: p from labelled texts, and log p(label) of a text for somebody's p.

k examples (text, label, what the pooled model thought) --ProfileEncoder--> p --gradient--> p'
question (what the pooled model thinks, leading components of z), p --Selector--> log p(label)
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxrec.models.personal.item_labels import ItemView
from jaxrec.models.personal.profile import (
    Evidence,
    Gaussian,
    ProfileEncoder,
    ProfileEncoderConfig,
    ProfileFitConfig,
    fit_profiles,
)
from jaxrec.models.personal.selector import Selector, SelectorConfig
from jaxrec.training.optimizer import OptConfig


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
        # Width 0: there is no hidden layer.
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
        """Judgements as evidence: the text, the label, and how far the label is from the pooled model's guess.

        Args:
          frozen: "features" and "base" (log p of the pooled model) of every item.
          item_US, label_US: S judgements of each of U people.
          mask_US: which of them are there.
        """
        given = jax.nn.one_hot(label_US, self.labels)
        # A label that everybody would have given says nothing of a person: what the crowd did not expect does.
        surprise = given - jnp.exp(frozen["base"][item_US])
        z = jnp.concatenate([frozen["features"][item_US], given, surprise], -1)
        # Labels are steps of a scale here: from -1 to 1, so the encoder need not learn their order.
        level = 2.0 * label_US / (self.labels - 1) - 1
        return Evidence(z, jnp.zeros_like(label_US), level, mask_US)

    def infer(
        self, params: PyTree, frozen: PyTree, item_US: Array, label_US: Array, mask_US: Array
    ) -> Array:
        """p [U, E] of each person from their judgements, in one pass.

        Args:
          params: of encoder and selector.
          frozen, item_US, label_US, mask_US: as of `evidence`.
        """
        evidence = self.evidence(frozen, item_US, label_US, mask_US)
        return self.encoder.apply({"params": params["encoder"]}, evidence)

    def log_p(self, params: PyTree, frozen: PyTree, p_UE: Array, item_US: Array) -> Array:
        """Log p of each label [U, S, C].

        Args:
          params, frozen: as of `infer`.
          p_UE: who judges.
          item_US: what is judged.
        """
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
        cfg: ProfileFitConfig,
    ) -> Array:
        """p [U, E] by gradient, everybody at once, each by their own judgements (`profile.fit_profiles`).

        Args:
          params, frozen: as of `infer`.
          start_UE: where each p begins.
          prior: what p is like before anything is seen.
          cards: (items, labels, mask) of each person's judgements.
          cfg: steps and their size.
        """

        def loss(p_E: Array, own: tuple) -> Array:
            item_S, label_S, mask_S = own
            # One person at a time: `fit_profiles` maps over people, and their gradients stay apart.
            log_p = self.log_p(params, frozen, p_E[None], item_S[None])[0]
            # A sum and not a mean: the more examples somebody has, the less the prior weighs (`fit_profiles`).
            return -jnp.sum(jnp.take_along_axis(log_p, label_S[:, None], 1)[:, 0] * mask_S)

        return fit_profiles(loss, start_UE, cards, prior, cfg)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the personal model reads an item: what is taken from its logits, and what its components are divided by.

    logit_C: the mean of the pooled model's centred logits over all items. spread_W: of the leading components of z.
    """

    logit_C: np.ndarray
    spread_W: np.ndarray

    @classmethod
    def of(cls, view: ItemView, content: int) -> "Reading":
        """From the items of a fit."""
        # Logits are known up to a constant for each item: centred, two models' can be compared.
        logit_IC = view.crossfit_IC - view.crossfit_IC.mean(1, keepdims=True)
        return cls(logit_IC.mean(0), view.x_IW[:, :content].std(0) + 1e-3)

    def __call__(self, log_p_IC: np.ndarray, x_IW: np.ndarray) -> PyTree:
        """What is read of any items: the pooled model's log p of their labels, and their components."""
        logit_IC = log_p_IC - log_p_IC.mean(1, keepdims=True)
        x_IW = x_IW[:, : len(self.spread_W)]
        # Centred by the mean over the items of the fit, and kept, so that a new item is read as those were.
        own = np.concatenate([logit_IC - self.logit_C, x_IW / self.spread_W], 1)
        return {"features": jnp.asarray(own, jnp.float32), "base": jnp.asarray(log_p_IC)}


def frozen_of(view: ItemView, content: int) -> PyTree:
    """What the personal model reads of each item: centred logits of the pooled model and the first components of z."""
    return Reading.of(view, content)(view.crossfit_IC, view.x_IW)
