"""Floor 4: how a model does on held-out preferences: overall, and by group (a tenant, a source).

Of pairs: is the chosen answer's reward the higher one? Beside it, what needs no reference and so can be said of the
untuned model too: is the chosen answer the likelier one, summed, or per token? Of single thumbs: how often has a liked
answer a higher reward than a disliked one of its group (the area under the ROC curve)?
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxrec import mesh as meshes
from jaxrec.data.row_buckets import take
from jaxrec.losses.preference import PreferenceLoss
from jaxrec.models.language.tuned_lm import LM
from jaxrec.objectives.prefer import Reference, judge_pairs, judge_thumbs
from jaxrec.structs import Pairs, Thumbs


class HeldPreferences:
    """Numbers over held-out preferences: of each row (`known`), of all (`told`), of each group (`by_group`).

    Args:
      lm: the model.
      rows: `Pairs` or `Thumbs` of numpy arrays.
      groups: the name of each row's group.
      how: the loss that is told, without its likelihood and KL terms.
      reference: where the reference's log-probabilities come from, as of `prefer`.
      mesh: that a batch is placed on.
      batch: rows at a time.
    """

    def __init__(
        self,
        lm: LM,
        rows: Pairs | Thumbs,
        groups: Sequence[str],
        how: PreferenceLoss,
        reference: Reference,
        mesh: jax.sharding.Mesh,
        batch: int = 32,
    ):
        self.rows, self.groups, self.mesh, self.batch = rows, np.asarray(groups), mesh, batch
        # Neither term has a say in which of two answers is preferred, and the KL would need whole logits.
        self.how = dataclasses.replace(how, nll=0.0, kl=0.0)
        self.paired = isinstance(rows, Pairs)
        if self.paired and how.kind == "kto":  # its reward is DPO's
            self.how = PreferenceLoss("sigmoid", how.rate)
        if self.paired:
            self._ask = jax.jit(lambda tree, part: judge_pairs(lm, tree, part, self.how, reference))
        else:
            self._ask = jax.jit(lambda tree, part: judge_thumbs(lm, tree, part, reference))

    def judge_rows(self, tree: PyTree) -> dict[str, np.ndarray]:
        """What `judge_pairs` or `judge_thumbs` says of every row."""
        size = len(self.groups)
        parts = []
        for start in range(0, size, self.batch):
            # The last part is filled up with rows it has anyway, so that one program serves all parts; what they
            # give is cut off below.
            which = np.resize(np.arange(start, min(start + self.batch, size)), self.batch)
            part = meshes.place_batch(self.mesh, take(self.rows, which), self.batch)
            with meshes.within(self.mesh):
                told = jax.device_get(self._ask(tree, part))
            parts.append({name: x[: size - start] for name, x in told.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def measure(self, tree: PyTree) -> dict[str, float]:
        """`held_accuracy`, `held_margin`, `held_loss` over all rows; of pairs also the two likelihood accuracies."""
        return {f"held_{name}": x for name, x in self._numbers(self.judge_rows(tree), ...).items()}

    def by_group(self, tree: PyTree) -> dict[str, dict[str, float]]:
        """The same for each group, and how many `rows` it has."""
        known = self.judge_rows(tree)
        found = {}
        for group in dict.fromkeys(self.groups.tolist()):
            which = np.flatnonzero(self.groups == group)
            found[group] = {"rows": float(len(which)), **self._numbers(known, which)}
        return found

    def _numbers(self, known: Mapping[str, np.ndarray], which: Any) -> dict[str, float]:
        part = {name: x[which] for name, x in known.items()}
        if self.paired:
            margin = part["chosen_reward"] - part["rejected_reward"]
            total = part["chosen_logp"] - part["rejected_logp"]
            per_token = part["chosen_logp"] / np.maximum(part["chosen_tokens"], 1)
            per_token = per_token - part["rejected_logp"] / np.maximum(part["rejected_tokens"], 1)
            numbers = {
                "accuracy": margin > 0,
                "margin": margin,
                "loss": part["loss"],
                "likelier": total > 0,
                "likelier_per_token": per_token > 0,
            }
            return {name: float(np.mean(x)) for name, x in numbers.items()}
        return self._of_thumbs(
            part["ratio"] * self.how.rate, np.asarray(self.rows.liked_B)[which], self.groups[which]
        )

    def _of_thumbs(
        self, reward: np.ndarray, liked: np.ndarray, groups: np.ndarray
    ) -> dict[str, float]:
        """Over all pairs of a liked and a disliked answer of one group; over all groups where no group has both."""
        liked = liked.astype(bool)
        gap = reward[liked][:, None] - reward[~liked][None, :]
        same = groups[liked][:, None] == groups[~liked][None, :]
        gap = gap[same] if same.any() else gap.ravel()
        if not gap.size:
            return {"accuracy": float("nan"), "margin": float("nan")}
        # A tie is half a win: the mean over pairs is then the area under the ROC curve (Mann-Whitney).
        wins = (gap > 0) + 0.5 * (gap == 0)
        return {"accuracy": float(wins.mean()), "margin": float(gap.mean())}
