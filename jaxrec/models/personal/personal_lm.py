"""The one place where the parts are joined: backbone -> Z -> head, with p -> A(p) -> Delta beside it.

    tokens --backbone (frozen)--> hidden --LFE--> Z --------------------+
    p_BE   --A(p)-------------------------------> Delta (a row each) ---+--> head --> answer

`PersonalLM` holds modules, never numbers: params are arguments, a dict by part
{"backbone", "lfe", "head", "hypernet"}, so that any rule of paths can say what trains.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxrec.delta import DeltaConfig, materialise
from jaxrec.models.personal.heads import GenerativeHead, HeadConfig, Recall, head_cache, memory_of
from jaxrec.models.personal.hypernet import Hypernet
from jaxrec.models.personal.lfe import LFE, LFEConfig, extract
from jaxrec.structs import Delta, HeadOutput, KVCache, LFEOutput, Tokens


@dataclasses.dataclass(frozen=True)
class PersonalConfig:
    """Z, the head that reads it, and how p enters the head (`p_enters`, e.g. norm=True, embed=True, lora_rank=4)."""

    lfe: LFEConfig = LFEConfig()
    head: HeadConfig = HeadConfig()
    p_enters: DeltaConfig = DeltaConfig(embed=True, norm=True, lora_rank=4)
    d_p: int = 128
    hyper_width: int = 64

    def __post_init__(self):
        if self.lfe.d_z != self.head.d_z:
            raise ValueError(f"LFE gives Z of width {self.lfe.d_z}, the head reads {self.head.d_z}")


@struct.dataclass
class Turn:
    """What decoding one turn needs beside the head's own weights: made once, read at every token."""

    recall: Recall
    delta: Delta | None


@dataclasses.dataclass(frozen=True)
class PersonalLM:
    """A frozen backbone and the small parts that stand on its Z."""

    backbone: nn.Module
    cfg: PersonalConfig

    @property
    def lfe(self) -> LFE:
        return LFE(self.cfg.lfe)

    @property
    def head(self) -> GenerativeHead:
        return GenerativeHead(self.cfg.head)

    @property
    def hypernet(self) -> Hypernet:
        sites = GenerativeHead.sites(self.cfg.head)
        return Hypernet(sites, self.cfg.p_enters, width=self.cfg.hyper_width)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """New parameters of every part but the backbone."""
        keys = jax.random.split(key, 3)
        ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
        hidden = (jnp.zeros((1, 2, self.backbone.cfg.d_model)),) * self.cfg.lfe.top_k
        lfe = self.lfe.init(keys[0], hidden, mask)["params"]
        z = self.lfe.apply({"params": lfe}, hidden, mask)
        head = self.head.init(keys[1], ids, mask, memory_of(z), method="answer")["params"]
        hypernet = self.hypernet.init(keys[2], jnp.zeros((1, self.cfg.d_p)))["params"]
        return {"lfe": lfe, "head": head, "hypernet": hypernet}

    def encode(self, params: PyTree, tokens: Tokens) -> LFEOutput:
        """Z of a batch of texts: the backbone runs once, and no gradient flows into it or its LFE."""
        delta = params.get("lfe_delta")  # where the retrofit trained one
        z = extract(self.backbone, self.lfe, params["backbone"], params["lfe"], tokens, delta)
        return jax.lax.stop_gradient(z)

    def personal(self, params: PyTree, p_BE: Float[Array, "B E"]) -> Delta:
        """A(p): each row's changes to the head, made layer by layer where they are used."""
        return self.hypernet.apply({"params": params["hypernet"]}, p_BE)

    def answer(
        self,
        params: PyTree,
        z: LFEOutput,
        answer: Tokens,
        delta: Delta | None,
        retrieved: LFEOutput | None = None,
    ) -> HeadOutput:
        """Teacher-forced logits [B, L, V] of answers to the texts behind `z`."""
        memory = memory_of(z, retrieved)
        variables = {"params": params["head"]}
        return self.head.apply(
            variables, answer.ids_BL, answer.mask_BL, memory, delta, method="answer"
        )

    # ------------------------------------------------------------------------------------------ decoding

    def turn(
        self,
        params: PyTree,
        z: LFEOutput,
        p_BE: Float[Array, "B E"] | None,
        retrieved: LFEOutput | None = None,
    ) -> Turn:
        """What decoding a turn needs: the memory's keys and values at every layer, and each row's Delta, made once.

        Args:
          params: the whole tree; "head" and "hypernet" are read.
          z: of the conversation so far, from `encode`.
          p_BE: who answers, or None for nobody in particular.
          retrieved: Z of passages, each row's own joined along L; their tokens stand behind the turn's in the memory,
            in a segment of their own, exactly as in `answer`.
        """
        delta = None if p_BE is None else materialise(self.personal(params, p_BE))
        variables = {"params": params["head"]}
        memory = memory_of(z, retrieved)
        return Turn(self.head.apply(variables, memory, delta, method="remember"), delta)

    def step(self, params: PyTree, turn: Turn) -> Callable:
        """The StepFn of a turn: (ids_BL, mask_BL, cache) -> (logits_BV, cache). The backbone is not in it."""

        def step(ids_BL: Int[Array, "B L"], mask_BL: Array, cache: KVCache):
            out = self.head.apply(
                {"params": params["head"]},
                ids_BL,
                mask_BL,
                turn.recall,
                delta=turn.delta,
                cache=cache,
                logits="last",
            )
            return out.logits[:, 0], out.cache

        return step

    def new_cache(self, batch: int, slots: int) -> KVCache:
        """An empty cache for answers of at most `slots` tokens."""
        return head_cache(self.cfg.head, batch, slots + self.cfg.p_enters.prompt_length)
