"""The way from a frozen encoder's vectors, and from who asks, into the space where questions find texts.

    question   unit(z + z W + p U)           W begins at zero: an untrained retriever is the encoder itself
    text       unit(z + z W)                 the same W, or one of its own

A linear map on top of a frozen encoder, with p beside z_cls; W is trained by InfoNCE (`objectives.retriever`). The
texts' side knows no person, so one index serves everybody.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import flax.struct as struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxrec import checkpoint, config
from jaxrec.config import RunError
from jaxrec.data.turns import GUIDE
from jaxrec.models.personal.profile import Evidence, ProfileEncoder, ProfileEncoderConfig
from jaxrec.retrieval.passages.encoder import TextEncoder
from jaxrec.structs import Leaf


@dataclasses.dataclass(frozen=True)
class RetrieverConfig:
    """Size of a retriever."""

    d_z: int = 384  # of the encoder's vectors
    d_p: int = 0  # of p; 0: no person
    shared: bool = True  # questions and texts go through one map
    # What p is: the mean vector of a tenant's guide, less everybody's (d_p is d_z), or what an encoder reads off it.
    profile: Literal["mean", "encoder"] = "mean"
    gain: float = (
        3.0  # of the mean's p before training, chosen on the sample world's training tenants
    )

    def __post_init__(self) -> None:
        if self.d_p and self.profile == "mean" and self.d_p != self.d_z:
            raise ValueError(f"the mean of what is known has {self.d_z} numbers: d_p is that, or 0")


@struct.dataclass
class RetrieverBatch:
    """Questions, right texts and J hard negatives by number, and what is known of who asks (numbers, -1: nothing)."""

    question_B: Leaf
    right_B: Leaf
    hard_BJ: Leaf
    shown_BS: Leaf
    kind_BS: Leaf


def init_retriever(cfg: RetrieverConfig) -> PyTree:
    """Weights that change nothing yet, but for the gain of a mean p."""
    names = ("shared",) if cfg.shared else ("question", "text")
    params = {name: jnp.zeros((cfg.d_z, cfg.d_z)) for name in names}
    if not cfg.d_p:
        return params
    # A mean lies in the space of the questions already; of an encoder's p nothing is known before training.
    mean = cfg.profile == "mean"
    return params | {
        "person": cfg.gain * jnp.eye(cfg.d_z) if mean else jnp.zeros((cfg.d_p, cfg.d_z))
    }


def question_vectors(
    params: PyTree, z_BD: Float[Array, "B D"], p_BE: Float[Array, "B E"] | None = None
) -> Float[Array, "B D"]:
    """Of length 1. z_BD: of length 1. p_BE: who asks, where the retriever takes a person."""
    moved = z_BD @ params["shared" if "shared" in params else "question"]
    return _unit(z_BD + moved + (0.0 if p_BE is None else p_BE @ params["person"]))


def text_vectors(params: PyTree, z_BD: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Of length 1. z_BD: of length 1."""
    return _unit(z_BD + z_BD @ params["shared" if "shared" in params else "text"])


def profiles_of(
    encoder: ProfileEncoder | None, tree: PyTree, shown_BS: Array, kind_BS: Array
) -> Float[Array, "B E"] | None:
    """p of each row out of what is known of it; None where the tree holds nothing to make it by.

    encoder: or None for the mean. tree: "known", the vectors of what is known; "center", the mean p of all, or
    "encoder". shown_BS, kind_BS: numbers of what is known, -1 where there is less, and what it is.
    """
    if encoder is None and "center" not in tree:
        return None
    there_BS = shown_BS >= 0
    z_BSD = tree["known"][jnp.maximum(shown_BS, 0)]
    if encoder is not None:
        evidence = Evidence(z_BSD, kind_BS, jnp.zeros(kind_BS.shape), there_BS)
        return encoder.apply({"params": tree["encoder"]}, evidence)
    # A guide says whose it is; answers say what was asked, and would pull each question towards other questions.
    weight_BS = (there_BS & (kind_BS == GUIDE)).astype(jnp.float32)
    count_B1 = weight_BS.sum(1, keepdims=True)
    mean_BD = jnp.einsum("bs,bsd->bd", weight_BS, z_BSD) / jnp.maximum(count_B1, 1.0)
    return jnp.where(count_B1 > 0, mean_BD - tree["center"][None], 0.0)


def _unit(x_BD: Array) -> Array:
    return x_BD / jnp.sqrt(jnp.sum(x_BD**2, -1, keepdims=True) + 1e-12)


# ------------------------------------------------------------------------------------------ as a folder


@dataclasses.dataclass(frozen=True)
class Retriever:
    """A trained retriever; source: the encoder that it stands on. `encoder` is None where p is a mean, or absent."""

    cfg: RetrieverConfig
    params: PyTree
    source: str
    encoder: ProfileEncoder | None = None

    def questions(
        self, z_BD: Float[np.ndarray, "B D"], p_BE: Float[np.ndarray, "B E"] | None = None
    ) -> Float[np.ndarray, "B D"]:
        """Where questions stand; without p a retriever that takes one gets the stranger's, zero."""
        p_BE = None if p_BE is None else jnp.asarray(p_BE)
        return np.asarray(question_vectors(self.params["retriever"], jnp.asarray(z_BD), p_BE))

    def texts(self, z_BD: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B D"]:
        """Where texts stand."""
        return np.asarray(text_vectors(self.params["retriever"], jnp.asarray(z_BD)))

    def profiles(
        self, known_KD: np.ndarray, shown_US: np.ndarray, kind_US: np.ndarray
    ) -> Float[np.ndarray, "U E"]:
        """p of U tenants from the vectors of what is known of them. Raises RunError where it takes no person."""
        if not self.cfg.d_p:
            raise RunError("this retriever was trained without p")
        tree = {**self.params, "known": jnp.asarray(known_KD)}
        return np.asarray(
            profiles_of(self.encoder, tree, jnp.asarray(shown_US), jnp.asarray(kind_US))
        )

    def over(self, encoder: TextEncoder, p_E: Float[np.ndarray, " E"] | None = None) -> TextEncoder:
        """The encoder of an index in this space, its questions asked by p. Its name holds that of these weights.

        encoder: the one that it was trained on. p_E: who asks. Raises RunError where the encoder is another.
        """
        if encoder.name.split(":")[0] != self.source.split(":")[0]:
            raise RunError(f"this retriever stands on {self.source}, not on {encoder.name}")
        who = None if p_E is None else np.asarray(p_E)[None]
        mark = checkpoint.fingerprint(self.params["retriever"])[:8]
        return TextEncoder(
            f"{encoder.name}>{mark}",
            lambda texts: self.texts(encoder.embed_passages(texts)),
            lambda texts: self.questions(encoder.embed_queries(texts), who),
            encoder.tokens,
        )


def save_retriever(folder: str | Path, model: Retriever, facts: dict[str, Any]) -> None:
    """Writes a retriever; facts: further ones for facts.json."""
    encoder = model.encoder and config.to_dict(model.encoder.cfg)
    own = {"retriever": config.to_dict(model.cfg), "encoder": encoder, "source": model.source}
    checkpoint.save_params(folder, model.params, {**facts, **own})


def load_retriever(folder: str | Path) -> Retriever:
    """A retriever from its folder. Raises CheckpointError, and RunError for the folder of another model."""
    facts = checkpoint.load_facts(folder)
    if "retriever" not in facts:
        raise RunError(f"{folder} is no retriever: its facts.json lacks 'retriever'")
    encoder = facts["encoder"]
    return Retriever(
        config.from_dict(RetrieverConfig, facts["retriever"]),
        checkpoint.load_params(folder),
        facts["source"],
        encoder and ProfileEncoder(config.from_dict(ProfileEncoderConfig, encoder)),
    )
