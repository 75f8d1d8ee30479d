"""A trained policy head's folder, and its judgement of many answers.

FOLDER/params       head, encoder or profile table
FOLDER/facts.json   configs, labels, tenants, class weights, calibration, and how texts are read
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jaxrec import checkpoint, config
from jaxrec.calibration import Calibration
from jaxrec.config import RunError
from jaxrec.models.personal.policy import (
    PolicyBatch,
    PolicyHead,
    PolicyHeadConfig,
    label_logits,
    profile_of,
)
from jaxrec.models.personal.profile import ProfileEncoder, ProfileEncoderConfig
from jaxrec.models.text.text_vectors import Texts


@dataclasses.dataclass(frozen=True)
class PolicyModel:
    """A policy head with its weights; `encoder` is None where p comes from a table (or the head takes none)."""

    head: PolicyHead
    encoder: ProfileEncoder | None
    params: PyTree
    tenants: tuple[str, ...] = ()
    calibration: Calibration | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def profiles(
        self, texts: Texts, batch: PolicyBatch, rows: int = 256
    ) -> Float[np.ndarray, "B E"] | None:
        """p of each row, None where the head takes none."""
        if not self.head.cfg.p_enters:
            return None
        return _in_parts(_profiles(self.head, self.encoder), self._tree(texts), batch, (), rows)

    def logits(
        self,
        texts: Texts,
        batch: PolicyBatch,
        p_BE: Float[np.ndarray, "B E"] | None = None,
        rows: int = 256,
    ) -> Float[np.ndarray, "B W"]:
        """Logits of every label.

        Args:
          texts: the library that the batch points into.
          batch: questions, answers and grounds by number.
          p_BE: whose policy it is; by default each row's own.
          rows: answers at a time.
        """
        if self.head.cfg.p_enters and p_BE is None:
            p_BE = self.profiles(texts, batch, rows)
        given = () if p_BE is None else (np.asarray(p_BE, np.float32),)
        return _in_parts(_logits(self.head), self._tree(texts), batch, given, rows)

    def _tree(self, texts: Texts) -> PyTree:
        return {**self.params, "texts": texts}


def rows_of(batch: PolicyBatch, chosen: np.ndarray) -> PolicyBatch:
    """The chosen rows of a batch of numpy arrays."""
    return jax.tree.map(lambda x: x[chosen], batch)


def save_policy(
    folder: str | Path,
    model: PolicyModel,
    facts: dict[str, Any],
) -> None:
    """Writes a policy head; `facts` are further facts for facts.json (data, reading of texts)."""
    encoder = model.encoder and config.to_dict(model.encoder.cfg)
    own = {"policy": config.to_dict(model.head.cfg), "encoder": encoder, "tenants": model.tenants}
    calibration = model.calibration and model.calibration.to_json()
    checkpoint.save_params(folder, model.params, {**facts, **own, "calibration": calibration})


def load_policy(folder: str | Path) -> PolicyModel:
    """A policy head from its folder. Raises CheckpointError, and RunError for the folder of another model."""
    facts = checkpoint.load_facts(folder)
    if "policy" not in facts:
        raise RunError(f"{folder} is no policy head: its facts.json lacks 'policy'")
    encoder = facts["encoder"]
    # Logits are kept as they were trained; what makes probabilities of them lies beside the weights.
    calibration = facts["calibration"]
    return PolicyModel(
        PolicyHead(config.from_dict(PolicyHeadConfig, facts["policy"])),
        encoder and ProfileEncoder(config.from_dict(ProfileEncoderConfig, encoder)),
        checkpoint.load_params(folder),
        tuple(facts["tenants"]),
        calibration and Calibration.from_json(calibration),
        facts,
    )


def _in_parts(apply: Any, tree: PyTree, batch: PolicyBatch, given: tuple, rows: int) -> np.ndarray:
    """One compiled program for all parts: the last is filled up with its last row."""
    count, parts = len(batch.answer_B), []
    # Once, and not with each part: the library of texts is in the tree.
    tree = jax.device_put(tree)
    for start in range(0, count, rows):
        # The last part repeats its last row up to `rows`, so that there is one program.
        index = np.minimum(np.arange(start, start + rows), count - 1)
        part, own = rows_of(batch, index), tuple(x[index] for x in given)
        parts.append(np.asarray(apply(tree, part, *own)))
    return np.concatenate(parts)[:count]


@functools.cache
def _logits(head: PolicyHead) -> Any:
    # Modules compare by their configs, so models of one shape share the programs that are cached here.
    return jax.jit(lambda tree, batch, p=None: label_logits(head, tree, batch, p))


@functools.cache
def _profiles(head: PolicyHead, encoder: ProfileEncoder | None) -> Any:
    return jax.jit(lambda tree, batch: profile_of(head, encoder, tree, batch))
