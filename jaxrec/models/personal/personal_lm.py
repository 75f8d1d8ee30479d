"""The one place where the parts are joined: backbone -> Z -> head, with p -> A(p) -> Delta beside it.

    tokens --backbone (frozen)--> hidden --LFE--> Z --------------------+
    p_BE   --A(p)-------------------------------> Delta (a row each) ---+--> head --> answer

With `person="backbone"` there is no head: the Delta changes layers of the backbone, which answers itself (`inside`).

`PersonalLM` holds modules, never numbers: params are arguments, a dict by part
{"backbone", "lfe", "head", "hypernet"}, so that any rule of paths can say what trains.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxrec.delta import DeltaConfig, Sites, materialise
from jaxrec.losses.tokens import following, next_log_probs
from jaxrec.models.personal.heads import GenerativeHead, HeadConfig, Recall, head_cache, memory_of
from jaxrec.models.personal.hypernet import Hypernet
from jaxrec.models.personal.inside import (
    HalfRead,
    InsideError,
    answer_logits,
    layers_below,
    spec_inside,
)
from jaxrec.models.personal.lfe import LFE, LFEConfig, extract, from_states
from jaxrec.models.personal.vocabulary import Vocabulary, bar_padding, vocabulary_of
from jaxrec.nn.decoder import Decoder, DecoderConfig, decoder_cache
from jaxrec.structs import Delta, HeadOutput, KVCache, LFEOutput, Tokens

# What an answer is given to: Z of a text where a head answers, else the text itself, or as far as nobody changes it.
Context = LFEOutput | Tokens | HalfRead


@dataclasses.dataclass(frozen=True)
class PersonalConfig:
    """Z, who answers, and how p enters there (e.g. norm=True, embed=True, lora_rank=4)."""

    lfe: LFEConfig = LFEConfig()
    head: HeadConfig = HeadConfig()
    p_enters: DeltaConfig = DeltaConfig(embed=True, norm=True, lora_rank=4)  # of the head
    d_p: int = 128
    hyper_width: int = 64
    person: Literal["head", "backbone"] = "head"  # whose layers A(p) changes, and who answers
    inside: DeltaConfig = DeltaConfig(
        norm=True, lora_rank=8, lora_sites="q|v|up|down"
    )  # of the backbone
    depths: tuple[
        int, ...
    ] = ()  # the backbone's layers that are changed, from 0; empty: the top quarter
    hyper_base: Literal["stack", "layer"] = "stack"  # what shares a base of A(p)

    def __post_init__(self):
        if self.lfe.d_z != self.head.d_z:
            raise ValueError(f"LFE gives Z of width {self.lfe.d_z}, the head reads {self.head.d_z}")


@struct.dataclass
class TurnState:
    """What decoding one turn needs beside the weights: made once, read at every token. `recall`: a head's memory."""

    recall: Recall | None
    delta: Delta | None


@dataclasses.dataclass(frozen=True)
class PersonalLM:
    """A frozen backbone and the small parts that stand on its Z, or change it."""

    backbone: nn.Module
    cfg: PersonalConfig

    def __post_init__(self):
        own, cfg = self.backbone.cfg, self.cfg
        decodes = isinstance(own, DecoderConfig)
        if not decodes and (self.inside or cfg.head.tied_to_backbone):
            raise InsideError(
                "an encoder gives Z, but it neither answers nor lends a head its vocabulary: take a decoder for that"
            )
        if decodes and cfg.head.tied_to_backbone:
            sizes = (own.vocab, own.d_model)
            if (cfg.head.vocab, cfg.head.d_backbone) != sizes:
                raise ValueError(
                    f"the head is tied to a table of {cfg.head.vocab} x {cfg.head.d_backbone}, the backbone's is"
                    f" {sizes[0]} x {sizes[1]}"
                )
        if self.inside:
            spec_inside(cfg.inside, cfg.depths, own)

    @property
    def inside(self) -> bool:
        """Whether the backbone itself answers."""
        return self.cfg.person == "backbone"

    @property
    def borrows(self) -> bool:
        """Whether words are scored by the backbone's tables, which are large: better never by whole logits."""
        return self.inside or self.cfg.head.tied_to_backbone

    @property
    def lfe(self) -> LFE:
        return LFE(self.cfg.lfe)

    @property
    def head(self) -> GenerativeHead:
        return GenerativeHead(self.cfg.head)

    @property
    def sites(self) -> Sites:
        """Where what answers can be changed."""
        if self.inside:
            return Decoder.sites(self.backbone.cfg)
        return GenerativeHead.sites(self.cfg.head)

    @property
    def spec(self) -> DeltaConfig:
        """The changes that A(p) makes of p."""
        if self.inside:
            return spec_inside(self.cfg.inside, self.cfg.depths, self.backbone.cfg)
        return self.cfg.p_enters

    @property
    def hypernet(self) -> Hypernet:
        return Hypernet(self.sites, self.spec, width=self.cfg.hyper_width, base=self.cfg.hyper_base)

    def init(self, key: PRNGKeyArray) -> PyTree:
        """New parameters of every part but the backbone."""
        keys = jax.random.split(key, 3)
        ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
        # Shapes alone matter to initialisers, so the backbone, which may be large, is not run.
        hidden = (jnp.zeros((1, 2, self.backbone.cfg.d_model)),) * self.cfg.lfe.top_k
        lfe = self.lfe.init(keys[0], hidden, mask)["params"]
        hypernet = self.hypernet.init(keys[2], jnp.zeros((1, self.cfg.d_p)))["params"]
        if self.inside:
            return {"lfe": lfe, "hypernet": hypernet}
        z = self.lfe.apply({"params": lfe}, hidden, mask)
        blank = None
        if (
            self.cfg.head.tied_to_backbone
        ):  # a head's shapes do not depend on how many words there are
            row = jnp.zeros((1, self.cfg.head.d_backbone))
            blank = Vocabulary(row, row)
        head = self.head.init(keys[1], ids, mask, memory_of(z), vocabulary=blank, method="answer")[
            "params"
        ]
        return {"lfe": lfe, "head": head, "hypernet": hypernet}

    def encode(self, params: PyTree, tokens: Tokens) -> LFEOutput:
        """Z of a batch of texts: the backbone runs once, and no gradient flows into it or its LFE."""
        delta = params.get("lfe_delta")  # where the retrofit trained one
        z = extract(self.backbone, self.lfe, params["backbone"], params["lfe"], tokens, delta)
        # The LFE was trained by the retrofit; later stages would otherwise move Z under what already stands on it.
        return jax.lax.stop_gradient(z)

    def read(self, params: PyTree, question: Tokens, states_BLD: Array | None = None) -> Context:
        """What `answer`, `log_probs` and `turn` answer to: Z of the question, or, inside the backbone, its tokens.

        params, question: weights and token rows. states_BLD: of `frozen_states.question_states`, kept, and so not
        computed again.
        """
        if states_BLD is None:
            return question if self.inside else self.encode(params, question)
        if self.inside:
            return HalfRead(question, states_BLD, self.below)
        return jax.lax.stop_gradient(
            from_states(self.lfe, params["lfe"], states_BLD, question.mask_BL)
        )

    @property
    def below(self) -> int:
        """How many of the backbone's lowest layers are the same for everybody."""
        return layers_below(self.cfg.inside, self.cfg.depths, self.backbone.cfg)

    def personal(self, params: PyTree, p_BE: Float[Array, "B E"]) -> Delta:
        """A(p): each row's changes to what answers, made layer by layer where they are used."""
        return self.hypernet.apply({"params": params["hypernet"]}, p_BE)

    def answer(
        self,
        params: PyTree,
        context: Context,
        answer: Tokens,
        delta: Delta | None,
        retrieved: LFEOutput | None = None,
        logits: str = "all",
    ) -> HeadOutput:
        """Teacher forcing: logits [B, L, V] and hidden states of answers.

        Args:
          params: the whole tree.
          context: what is answered, from `read`.
          answer: token rows.
          delta: each row's changes, or None for nobody in particular.
          retrieved: Z of passages, each row's own joined along L, for a head to read beside its context.
          logits: "all", or "none" where hidden states are enough.

        Raises ValueError for retrieved Z inside the backbone, which reads passages as text.
        """
        if self.inside:
            self._refuse(retrieved)
            return answer_logits(
                self.backbone, params["backbone"], context, answer, delta,
                tokens=self.cfg.head.tokens, logits=logits,
            )  # fmt: skip
        memory, variables = memory_of(context, retrieved), {"params": params["head"]}
        rows = (answer.ids_BL, answer.mask_BL)
        words = self.vocabulary(params)
        return self.head.apply(variables, *rows, memory, delta, words, logits, method="answer")

    def log_probs(
        self,
        params: PyTree,
        context: Context,
        answer: Tokens,
        delta: Delta | None,
        retrieved: LFEOutput | None = None,
        places_BL: Array | None = None,
    ) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
        """(log p, nats; is it likelier than any other?) of each token of the answers, told at the place before it.

        Against a backbone's vocabulary the logits are never there as a whole (unless A(p) makes a LoRA on them).

        Args:
          params, context, answer, delta, retrieved: as of `answer`.
          places_BL: not 0 where it is asked for; if not given, the answer's `loss_BL`.
        """
        counts_BL = following(answer.loss_BL if places_BL is None else places_BL) != 0
        # A LoRA on the output head gives each row a vocabulary matrix of its own: chunks of a shared one cannot score
        # it, so the whole logits are made.
        if not self.borrows or (delta is not None and delta.outer.head is not None):
            logits_BLV = self.answer(params, context, answer, delta, retrieved).logits
            log_p_BL, best_BL = next_log_probs(logits_BLV, answer.ids_BL)
            return jnp.where(counts_BL, log_p_BL, 0.0), counts_BL & best_BL
        x_BLD = self.answer(params, context, answer, delta, retrieved, logits="none").hidden
        if not self.inside:
            # A tied head is narrower than the table: its states are widened before they meet the classes.
            x_BLD = self.head.apply({"params": params["head"]}, x_BLD, method="outward")
        words = vocabulary_of(self.backbone.cfg, params["backbone"], self.cfg.head.tokens)
        return words.log_probs(x_BLD, answer.ids_BL, counts_BL)

    def vocabulary(self, params: PyTree) -> Vocabulary | None:
        """The backbone's vocabulary, for a head that is tied to it."""
        if not self.cfg.head.tied_to_backbone:
            return None
        return vocabulary_of(self.backbone.cfg, params["backbone"], self.cfg.head.tokens)

    # ------------------------------------------------------------------------------------------ decoding

    def turn(
        self,
        params: PyTree,
        context: Context,
        p_BE: Float[Array, "B E"] | Delta | None,
        retrieved: LFEOutput | None = None,
    ) -> TurnState:
        """What decoding a turn needs: the memory's keys and values at every layer, and each row's Delta, made once.

        Args:
          params: the whole tree; "head" and "hypernet" are read.
          context: of the conversation so far, from `read`.
          p_BE: who answers; a Delta of each row's own, or None for nobody in particular.
          retrieved: Z of passages, each row's own joined along L; their tokens stand behind the turn's in the memory,
            in a segment of their own, exactly as in `answer`.

        Raises ValueError for retrieved Z inside the backbone, which reads passages as text.
        """
        delta = p_BE
        if not (p_BE is None or isinstance(p_BE, Delta)):
            # Lazy stacks are for one pass of training; decoding would run the hypernetwork again at every token.
            delta = materialise(self.personal(params, p_BE))
        if self.inside:
            self._refuse(retrieved)
            return TurnState(None, delta)
        variables = {"params": params["head"]}
        memory = memory_of(context, retrieved)
        return TurnState(self.head.apply(variables, memory, delta, method="remember"), delta)

    def opening(self, question: Sequence[int], marks: Sequence[int]) -> list[int]:
        """The ids that an answer's decoding begins with.

        question: of the conversation, which a head has read as Z and the backbone reads now. marks: open an answer.
        """
        return [*question, *marks] if self.inside else [*marks]

    def step(self, params: PyTree, turn: TurnState, reading: bool = True) -> Callable:
        """The StepFn of a turn: (ids_BL, mask_BL, cache) -> (logits_BV, cache).

        A head's needs of the backbone nothing, or its tables where it is tied to them. reading: an opening may be among
        the ids; without one a soft prompt of the backbone's is not looked at again.
        """
        delta, words = turn.delta, self.vocabulary(params)
        # Programs for reading and for going on are apart: in the second, neither has a place left to enter.
        if self.inside and not reading and delta is not None:  # both are in the cache by now
            delta = delta.replace(outer=delta.outer.replace(prompt_BPD=None, embed_BD=None))

        def step(ids_BL: Int[Array, "B L"], mask_BL: Array, cache: KVCache):
            if self.inside:
                out = self.backbone.apply(
                    {"params": params["backbone"]},
                    ids_BL,
                    mask_BL,
                    delta=delta,
                    cache=cache,
                    logits="last",
                )
                # Tables are padded to round sizes; an id that no token has could be sampled and not be decoded.
                return bar_padding(out.logits, self.cfg.head.tokens)[:, 0], out.cache
            out = self.head.apply(
                {"params": params["head"]},
                ids_BL,
                mask_BL,
                turn.recall,
                delta=delta,
                cache=cache,
                logits="last",
                vocabulary=words,
            )
            return out.logits[:, 0], out.cache

        return step

    def new_cache(self, batch: int, slots: int) -> KVCache:
        """An empty cache for texts of at most `slots` tokens: answers, inside the backbone with what opens them."""
        # A soft prompt made from p takes slots of the cache like real tokens.
        slots += self.spec.prompt_length
        if self.inside:
            return decoder_cache(self.backbone.cfg, batch, slots)
        return head_cache(self.cfg.head, batch, slots)

    def _refuse(self, retrieved: LFEOutput | None) -> None:
        if retrieved is not None:
            raise ValueError("the backbone reads passages as text: put them into the question")
