"""The policy head: what is wrong with an answer, label by label, for the tenant in whose name it is given.

    z_cls of question, answer, grounds ----------------------------+
    z_seq of the answer --attention by a query that p moves--------+--> Selector(p) --> logits [B, labels]
    z_seq of answer and grounds --aligned token by token-----------+

Grounding is a comparison: each token of the answer looks for its counterpart in the retrieved text, and what it finds
is set beside it (Parikh 2016's decomposable attention). Pooled vectors alone can't tell "5 pm" from "6 pm".
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec import tables
from jaxrec.models.personal.profile import Evidence, ProfileEncoder
from jaxrec.models.personal.selector import Selector, SelectorConfig
from jaxrec.nn.attention import attend
from jaxrec.structs import Leaf, LFEOutput

LABELS = ("grounding", "style", "compliance", "abuse")
Part = Literal["question", "answer", "grounds"]


@dataclasses.dataclass(frozen=True)
class PolicyHeadConfig:
    """What the head says, reads, and how p enters (see `SelectorConfig`; () leaves p out).

    reads: whose z_cls. tokens: the answer's z_seq too. align: width of the comparison of answer and grounds, 0: none.
    """

    labels: tuple[str, ...] = LABELS
    d_z: int = 384
    d_p: int = 32
    reads: tuple[Part, ...] = ("question", "answer")
    tokens: bool = False
    align: int = 0
    width: int = 64
    rank: int = 8
    p_enters: tuple[str, ...] = ("add", "bilinear")

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be one or more different names, not {self.labels}")
        if not self.reads:
            raise ValueError("the head must read something: question, answer, grounds")


@struct.dataclass
class PolicyBatch:
    """Judged answers as numbers of texts (-1: none), what is known of each (below 0: unknown), and whose they are.

    `shown_BS` are texts known of the tenant, with their kind and label: evidence for a profile encoder.
    """

    question_B: Leaf
    answer_B: Leaf
    grounds_B: Leaf
    target_BW: Leaf
    tenant_B: Leaf
    shown_BS: Leaf = None
    kind_BS: Leaf = None
    label_BS: Leaf = None


class PolicyHead(nn.Module):
    """Logits of violations, one a label."""

    cfg: PolicyHeadConfig

    @nn.compact
    def __call__(
        self,
        question: LFEOutput | None,
        answer: LFEOutput,
        grounds: LFEOutput | None = None,
        p_BE: Float[Array, "B E"] | None = None,
    ) -> Float[Array, "B W"]:
        """A logit for each label; above 0 it is likelier than not.

        Args:
          question: what was asked.
          answer: the answer that is judged.
          grounds: what it claims to stand on.
          p_BE: whose policy it is held against.

        Raises ValueError where a part that the config reads is absent.
        """
        c = self.cfg
        given = {"question": question, "answer": answer, "grounds": grounds}
        if missing := [name for name in c.reads if given[name] is None]:
            raise ValueError(f"this head reads {c.reads}: give it the {missing[0]}")
        parts = [given[name].z_cls_BD for name in c.reads]
        if (c.tokens or c.align) and answer.z_seq_BLD is None:
            raise ValueError("this head reads the answer's tokens: give it z_seq")
        if c.align:
            if grounds is None or grounds.z_seq_BLD is None:
                raise ValueError("this head compares the answer with the grounds: give their z_seq")
            parts.append(Alignment(c.align, name="align")(answer, grounds))
        seq, mask = (answer.z_seq_BLD, answer.mask_BL) if c.tokens else (None, None)
        # Texts' vectors and what the alignment gives are of different lengths: the norm puts them on one scale.
        z = nn.LayerNorm(name="norm")(jnp.concatenate(parts, -1))
        selector = SelectorConfig(
            z.shape[-1], c.d_p, len(c.labels), c.width, c.rank, c.p_enters, c.tokens
        )
        # A head whose p enters nowhere must not be handed one: the selector refuses it.
        return Selector(selector, name="selector")(
            z, p_BE if c.p_enters else None, z_seq_BLD=seq, mask_BL=mask
        )


class Alignment(nn.Module):
    """Each token of a text beside its counterpart in another: the strongest and the mean of what differs."""

    width: int

    @nn.compact
    def __call__(self, text: LFEOutput, other: LFEOutput) -> Float[Array, "B W"]:
        """[B, 2 * width]: maximum and mean over the text's tokens. Another text without tokens is compared with zeros.

        One projection serves both sides, so equal tokens find each other before anything is learned.
        """
        project = nn.Dense(self.width, use_bias=False, name="project")
        a_BLW, o_BMW = project(text.z_seq_BLD), project(other.z_seq_BLD)
        # The root of sum + epsilon, and not the norm: it has a gradient at zero, which padding is.
        unit = lambda x: x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-6)
        sharp = self.param("sharpness", nn.initializers.constant(10.0), (1, 1, 1))
        # `attend` divides scores by sqrt(width), which is for vectors of length sqrt(width); of cosines it is undone.
        query, key = unit(a_BLW) * sharp * self.width**0.5, unit(o_BMW)
        # Padding of the other text has a vector too and must not be anybody's counterpart.
        seen = jnp.broadcast_to(other.mask_BL[:, None, :], (*a_BLW.shape[:2], o_BMW.shape[1]))
        one = lambda x: x[:, :, None, :]
        found_BLW = attend(one(query), one(key), one(o_BMW), seen)[:, :, 0]
        # Distance and product are given outright, because one layer cannot multiply its inputs with each other.
        beside = jnp.concatenate(
            [a_BLW, found_BLW, jnp.abs(a_BLW - found_BLW), unit(a_BLW) * unit(found_BLW)], -1
        )
        h_BLW = nn.gelu(nn.Dense(self.width, name="compare")(beside))
        mask = text.mask_BL[..., None]
        # One unsupported claim is enough, and a mean over a long answer would hide it. In a row without tokens
        # -1e4 is left, which the relu below makes 0.
        most = jnp.max(jnp.where(mask, h_BLW, -1e4), 1)
        # A row without tokens has the mean 0.
        count = jnp.maximum(mask.sum(1), 1)
        mean = jnp.sum(jnp.where(mask, h_BLW, 0.0), 1) / count
        return jnp.concatenate([jax.nn.relu(most), mean], -1)


def profile_of(
    head: PolicyHead, encoder: ProfileEncoder | None, tree: Any, batch: PolicyBatch
) -> Float[Array, "B E"] | None:
    """p of each row: None where the head takes none.

    Args:
      head: whose config says whether it takes a person.
      encoder: from evidence to p, or None for the profile table.
      tree: all parts.
      batch: rows that name their tenant and its evidence.
    """
    if not head.cfg.p_enters:
        return None
    # A tenant whose p was trained has it in the table; anybody else's is read off evidence.
    if encoder is None:
        return tables.lookup(tree["profile"]["p"], batch.tenant_B)
    evidence = Evidence(
        tree["texts"].at(batch.shown_BS).z_cls_BD,
        batch.kind_BS,
        batch.label_BS,
        batch.shown_BS >= 0,
    )
    return encoder.apply({"params": tree["encoder"]}, evidence)


def label_logits(
    head: PolicyHead, tree: Any, batch: PolicyBatch, p_BE: Float[Array, "B E"] | None
) -> Float[Array, "B W"]:
    """The head's logits of a batch.

    Args:
      head: gives them.
      tree: all parts; the batch's texts are looked up in tree["texts"].
      batch: questions, answers and grounds by number.
      p_BE: whose policy it is, or None.
    """
    at = tree["texts"].at
    question, answer, grounds = at(batch.question_B), at(batch.answer_B), at(batch.grounds_B)
    return head.apply({"params": tree["head"]}, question, answer, grounds, p_BE)
