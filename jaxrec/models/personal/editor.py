"""The editor: which of several drafts is this person's, and may it go out as it stands?

    z of the context, z of a draft, what the draft changes --norm--> Selector(p) --> score, keep      (each draft alone)
    pieces known of the person: (z before, z after, the change) --ProfileEncoder--> p

Scores of one context's drafts are log-policies up to a constant: softmax over the drafts is how often the person would
choose each, which is what DPO needs. Rewriting what is not kept is `models.rewriting`'s business.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct as struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrec.models.personal.profile import Evidence, ProfileEncoder
from jaxrec.models.personal.selector import Selector, SelectorConfig
from jaxrec.models.text.text_vectors import Texts
from jaxrec.structs import Leaf

NEVER = -1e9  # the score of a draft that is not there


@dataclasses.dataclass(frozen=True)
class EditorConfig:
    """Size of the editor, and how p enters (see `SelectorConfig`; () leaves p out)."""

    d_z: int = 384
    d_p: int = 32
    width: int = 64
    rank: int = 8
    p_enters: tuple[str, ...] = ("add", "film", "bilinear")


@struct.dataclass
class EditorBatch:
    """Choices, as numbers of texts: what is answered, J drafts (-1: none; the first is the person's own), and whether
    each may be kept (below 0: unknown). `reference_BJ`: the reference policy's scores, or None for an even one.

    `shown_context_BS` and `shown_text_BS` (-1: none) are the person's pieces, which p is made from.
    """

    context_B: Leaf
    draft_BJ: Leaf
    keep_BJ: Leaf
    shown_context_BS: Leaf
    shown_text_BS: Leaf
    reference_BJ: Leaf = None


class Editor(nn.Module):
    """Score and keep-logit of each draft."""

    cfg: EditorConfig

    @nn.compact
    def __call__(
        self,
        context_BD: Float[Array, "B D"],
        draft_BJD: Float[Array, "B J D"],
        p_BE: Float[Array, "B E"] | None = None,
    ) -> tuple[Float[Array, "B J"], Float[Array, "B J"]]:
        """(scores, keep-logits). A draft's score depends on no other draft."""
        c = self.cfg
        # The context beside every draft of its own: drafts meet in the softmax of the loss, and nowhere before.
        z = _beside(jnp.broadcast_to(context_BD[:, None, :], draft_BJD.shape), draft_BJD)
        z = nn.LayerNorm(name="norm")(z)
        selector = SelectorConfig(z.shape[-1], c.d_p, 2, c.width, c.rank, c.p_enters)
        out = Selector(selector, name="selector")(z, p_BE if c.p_enters else None)
        return out[..., 0], out[..., 1]


def choose(
    score_J: Float[np.ndarray, " J"], keep_J: Float[np.ndarray, " J"], threshold: float = 0.0
) -> tuple[int, bool]:
    """(the best draft, whether it is kept): kept where its keep-logit exceeds `threshold`.

    Raises ValueError without drafts, and for a score that is not finite: NaN must not win by accident.
    """
    if not len(score_J) or len(score_J) != len(keep_J):
        raise ValueError(f"{len(score_J)} scores and {len(keep_J)} keep-logits of drafts")
    # argmax takes the first NaN for the largest.
    if not (np.isfinite(score_J).all() and np.isfinite(keep_J).all()):
        raise ValueError("a draft's score is not finite")
    best = int(np.argmax(score_J))
    return best, bool(keep_J[best] > threshold)


@dataclasses.dataclass(frozen=True)
class Edited:
    """What goes out: the text, the number of the draft it comes from, and whether that draft was kept as it was."""

    text: str
    draft: int
    kept: bool


def edit(
    drafts: Sequence[str],
    score: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
    rewrite: Callable[[str], str],
    threshold: float = 0.0,
) -> Edited:
    """The best of several drafts, rewritten where it may not be kept.

    Args:
      drafts: answers to one question.
      score: drafts -> (scores, keep-logits), for this question and one person.
      rewrite: a draft -> the same in the person's voice. An empty rewrite is no answer: the draft then stays.
      threshold: the keep-logit above which the best draft goes out as it is.

    Raises ValueError as `choose` does.
    """
    best, kept = choose(*score(drafts), threshold)
    # Rewritten only where it must be: a rewriter may lose facts that the draft had.
    again = "" if kept else rewrite(drafts[best]).strip()
    return Edited(again or drafts[best], best, kept or not again)


def evidence_of(texts: Texts, context_BS: Array, text_BS: Array) -> Evidence:
    """A person's pieces as evidence: what was there, what they wrote, and the change."""
    context, text = texts.at(context_BS).z_cls_BD, texts.at(text_BS).z_cls_BD
    nothing = jnp.zeros(text_BS.shape)
    # An index of -1 reads as zeros, so without the kind a guide's sentence would look like an answer to nothing.
    kind = (context_BS >= 0).astype(jnp.int32)  # a guide's sentence answers nothing
    return Evidence(_beside(context, text), kind, nothing, text_BS >= 0)


def profile_of(
    editor: Editor, encoder: ProfileEncoder | None, tree: Any, batch: EditorBatch
) -> Float[Array, "B E"] | None:
    """p of each row from its pieces; None where the editor takes none.

    Args:
      editor: whose config says whether it takes a person.
      encoder: from pieces to p.
      tree: all parts; "encoder" and "texts" are read.
      batch: rows with the numbers of a person's pieces.
    """
    if not editor.cfg.p_enters or encoder is None:
        return None
    evidence = evidence_of(tree["texts"], batch.shown_context_BS, batch.shown_text_BS)
    return encoder.apply({"params": tree["encoder"]}, evidence)


def score_drafts(
    editor: Editor, tree: Any, batch: EditorBatch, p_BE: Float[Array, "B E"] | None
) -> tuple[Float[Array, "B J"], Float[Array, "B J"]]:
    """(scores, keep-logits) of a batch; `NEVER` where there is no draft.

    Args:
      editor: scores drafts.
      tree: all parts; the batch's texts are looked up in tree["texts"].
      batch: contexts and drafts by number.
      p_BE: who chooses, or None.
    """
    at = tree["texts"].at
    score, keep = editor.apply(
        {"params": tree["editor"]}, at(batch.context_B).z_cls_BD, at(batch.draft_BJ).z_cls_BD, p_BE
    )
    # A finite score, so that a row without any draft still has a softmax.
    return jnp.where(batch.draft_BJ >= 0, score, NEVER), keep


def _beside(before: Array, after: Array) -> Array:
    return jnp.concatenate([before, after, after - before], -1)
