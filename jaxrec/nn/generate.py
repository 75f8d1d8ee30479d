"""Floor 2: decoding any model that has a cache: the prompts are read in chunks, the new tokens made in one program.

    read  (weights, cache, chunk)        -> scores of the next token     a program per chunk length
    begin (cache, scores)                -> the first new token
    advance (weights, state, until)      -> a while_loop of steps that ends early when every row has

The model is given as `bind(weights, reading) -> StepFn`, so that weights and deltas are arguments of the compiled
programs and not constants in them. Token ids are all that is known here: texts, for stop strings, come through a
callable.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import no_type_check

import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxrec import mesh as meshes
from jaxrec.nn.decoder import Decoder, DecoderConfig, decoder_cache
from jaxrec.nn.sampling import Sampling, choose
from jaxrec.structs import Delta

# (ids_BL, mask_BL, cache) -> (scores [B, V] after each row's last real token, cache)
StepFn = Callable[[Array, Array, PyTree], tuple[Array, PyTree]]

_SLOTS = 32  # caches are this much longer at a time, so that similar requests share a program
_SHORTEST = 16  # likewise the shortest chunk of a prompt


@dataclasses.dataclass(frozen=True)
class Generated:
    """New tokens of each row (its end token left out), and why it ended: "eos", "stop", "length", or None while it
    goes on. `texts` (cut before a stop string) only where a text was needed. `end`: the token that ended a row."""

    ids: list[list[int]]
    reason: list[str | None]
    texts: list[str] | None = None
    end: list[int | None] | None = None


@no_type_check  # shapes and shardings stand in these places too
@struct.dataclass
class _State:
    cache: PyTree
    ids_BT: Int[Array, "B T"]
    count_B: Int[Array, "B"]
    done_B: Bool[Array, "B"]
    ended_B: Bool[Array, "B"]  # done by an end token
    t: Int[Array, ""]  # tokens made by every row that goes on
    seen_BV: Bool[Array, "B V"] | None


class Generator:
    """Decoding of one model, its compiled programs kept from call to call.

    bind: (weights, reading) -> StepFn; `reading` while the prompt goes in. new_cache: (weights, batch, slots) -> an
    empty cache. limit: tokens that a text can have in all. eos: ids that end a text. chunk: of a prompt, at a time.
    """

    def __init__(
        self,
        bind: Callable[[PyTree, bool], StepFn],
        new_cache: Callable[[PyTree, int, int], PyTree],
        *,
        limit: int,
        eos: Sequence[int] = (),
        chunk: int = 256,
    ):
        self.bind, self.new_cache, self.limit, self.chunk = bind, new_cache, limit, chunk
        self.eos = tuple(eos)
        # Kept although only their sizes are read: the weights say on which devices the cache has to lie.
        self._empty = jax.jit(new_cache, static_argnums=(1, 2), keep_unused=True)
        # Cache and state are donated: a program writes into the memory that it was given instead of into a copy.
        self._read = jax.jit(self._read_chunk, donate_argnums=(1,))
        self._begin = jax.jit(self._first_token, static_argnames=("length",), donate_argnums=(0,))
        self._advance = jax.jit(self._many_tokens, donate_argnums=(1,))

    def __call__(
        self,
        weights: PyTree,
        prompts: Sequence[Sequence[int]],
        how: Sampling,
        *,
        stop: Sequence[str] = (),
        text_of: Callable[[list[int]], str] | None = None,
        at_least: int = 1,
    ) -> Generated:
        """Continues each prompt.

        Args:
          weights: what `bind` and `new_cache` are given.
          prompts: token ids of each row, of any lengths.
          how: sampling settings of each row, and how many new tokens it may have.
          stop: strings that end a row whose text contains one.
          text_of: ids -> text, needed for `stop`.
          at_least: prompt tokens that there is room for, so that calls with prompts up to there share their programs.

        Raises ValueError when a prompt is empty or has no room for its new tokens, or when `stop` has no `text_of`.
        """
        # Texts exist on the host alone, so stop strings are looked for between stretches of the program. A row that has
        # met one decodes on to the end of its stretch, and what it wrote beyond is cut off.
        every = 16 if stop else None
        *_, last = self.stream(
            weights, prompts, how, every=every, stop=stop, text_of=text_of, at_least=at_least
        )
        return last

    def stream(
        self,
        weights: PyTree,
        prompts: Sequence[Sequence[int]],
        how: Sampling,
        *,
        every: int | None = 8,
        stop: Sequence[str] = (),
        text_of: Callable[[list[int]], str] | None = None,
        at_least: int = 1,
    ) -> Iterator[Generated]:
        """As a call, but gives what there is so far, again and again; the last one is the whole.

        Args:
          weights, prompts, how, stop, text_of, at_least: as of a call.
          every: new tokens between two of what is given; None: the whole alone.
        """
        if stop and text_of is None:
            raise ValueError("stop strings need text_of, which makes a text of token ids")
        longest_new = self._check(prompts, how)
        # Around each call and not around the loop: what is done with a part that was given is no business of this mesh.
        mesh = meshes.of(weights)
        with meshes.within(mesh):
            state = self._start(weights, prompts, how, longest_new, at_least)
        stopped: dict[int, tuple[int, str]] = {}
        while True:
            until = longest_new if every is None else min(longest_new, int(state.t) + every)
            with meshes.within(mesh):
                state = self._advance(weights, state, how, jnp.int32(until))
            out = _snapshot(state, stopped, stop, text_of)
            done = all(out.reason)
            yield out
            if done:
                return
            if stopped:
                ended = np.isin(np.arange(len(prompts)), list(stopped))
                # The device learns of a stop string here: the row is done from the next stretch on.
                state = state.replace(done_B=state.done_B | ended)

    def _check(self, prompts: Sequence[Sequence[int]], how: Sampling) -> int:
        if len(prompts) != how.seed_B.shape[0]:
            raise ValueError(f"{len(prompts)} prompts, but settings for {how.seed_B.shape[0]} rows")
        new_B = np.asarray(how.max_new_B)
        for i, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise ValueError(f"prompt {i} is empty; it needs one token at least")
            if len(prompt) + new_B[i] > self.limit:
                raise ValueError(
                    f"prompt {i} has {len(prompt)} tokens; with {new_B[i]} new ones it passes the model's"
                    f" {self.limit}. Shorten it or ask for fewer"
                )
        return int(new_B.max())

    def _start(
        self,
        weights: PyTree,
        prompts: Sequence[Sequence[int]],
        how: Sampling,
        longest_new: int,
        at_least: int,
    ) -> _State:
        longest = max(at_least, *map(len, prompts))
        ids, mask = _chunks(prompts, self.chunk, longest)
        # a padded last chunk may be longer than all that will be kept of it
        slots = max(longest + longest_new, min(ids.shape[1], self.chunk))
        cache, scores = self._empty(weights, len(prompts), _up(slots, _SLOTS)), None
        for start, end in _spans(ids.shape[1], self.chunk):
            part = jnp.array(ids[:, start:end]), jnp.array(mask[:, start:end])
            cache, scores = self._read(weights, cache, *part, scores)
        whole = (jnp.array(ids), jnp.array(mask)) if how.penalised else None
        return self._begin(cache, scores, how, whole, length=_up(longest_new, _SLOTS))

    def advancing(
        self, mesh: Mesh, weights: PyTree, batch: int, slots: int, how: Sampling
    ) -> tuple[Callable, tuple]:
        """The program that makes tokens, and the shapes that it is called with: to compile before anything exists.

        Args:
          mesh: on which everything lies.
          weights: as of a call, shapes with their shardings in place of arrays.
          batch: rows. slots: of the cache.
          how: sampling settings of each row.
        """

        def begun(weights: PyTree, how: Sampling) -> _State:
            cache, one = self.new_cache(weights, batch, slots), jnp.ones((batch, 1), jnp.int32)
            scores_BV, cache = self.bind(weights, True)(one, one > 0, cache)
            return self._first_token(cache, scores_BV, how, None, _SLOTS)

        at = lambda x, spec: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
        )
        lying = lambda name: lambda x: at(x, meshes.activation_spec(mesh, name, x.shape))
        state = jax.eval_shape(begun, weights, how)
        rows = jax.tree.map(lying("rows"), state)
        kv = jax.tree.map(lying("cache"), {"k": state.cache.k, "v": state.cache.v})
        how = jax.tree.map(lambda x: lying("rows")(jnp.asarray(x)), how)
        state = rows.replace(cache=rows.cache.replace(**kv))
        return self._advance, (weights, state, how, at(jnp.int32(0), P()))

    # the three programs

    def _read_chunk(self, weights, cache, ids_BL, mask_BL, before_BV):
        scores_BV, cache = self.bind(weights, True)(ids_BL, mask_BL, cache)
        if before_BV is not None:  # a row whose prompt ended in an earlier chunk
            scores_BV = jnp.where(mask_BL.any(1)[:, None], scores_BV, before_BV)
        return cache, scores_BV

    def _first_token(self, cache, scores_BV, how, prompt, length):
        batch, n_vocab = scores_BV.shape
        none, zeros = jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32)
        seen_BV = None
        if prompt is not None:
            ids_BL, mask_BL = prompt
            seen_BV = jnp.zeros((batch, n_vocab), bool)
            if not how.spare_prompt:
                # max and not set: padding has id 0 as well, and its False must not wipe out a token 0 that was there.
                seen_BV = seen_BV.at[jnp.arange(batch)[:, None], ids_BL].max(mask_BL)
        ids_BT = jnp.zeros((batch, length), jnp.int32)
        rows = meshes.put((ids_BT, zeros, none, none), "rows")
        state = _State(cache, *rows, jnp.int32(0), seen_BV)
        return self._append(state, scores_BV, how)

    def _many_tokens(self, weights, state, how, until):
        step = self.bind(weights, False)

        def body(state: _State) -> _State:
            last_B = jax.lax.dynamic_index_in_dim(state.ids_BT, state.t - 1, 1, keepdims=True)
            # A row that has ended goes along as padding: it fills no slot, and the shapes stay the same.
            scores_BV, cache = step(last_B, ~state.done_B[:, None], state.cache)
            return self._append(state.replace(cache=cache), scores_BV, how)

        return jax.lax.while_loop(lambda s: (s.t < until) & ~s.done_B.all(), body, state)

    def _append(self, state: _State, scores_BV: Array, how: Sampling) -> _State:
        """Chooses a token for each row that goes on."""
        live_B = ~state.done_B
        nth_B = jnp.broadcast_to(state.t, live_B.shape)
        token_B = choose(scores_BV, how, nth_B, state.seen_BV)
        ended_B = jnp.isin(token_B, jnp.array(self.eos, jnp.int32)) if self.eos else ~live_B
        ended_B = state.ended_B | (live_B & ended_B)
        count_B = state.count_B + (live_B & ~ended_B)
        seen_BV = state.seen_BV
        if seen_BV is not None:
            seen_BV = seen_BV.at[jnp.arange(token_B.shape[0]), token_B].max(live_B)
        return state.replace(
            ids_BT=jax.lax.dynamic_update_slice(state.ids_BT, token_B[:, None], (0, state.t)),
            count_B=count_B,
            done_B=state.done_B | ended_B | (count_B >= how.max_new_B),
            ended_B=ended_B,
            t=state.t + 1,
            seen_BV=seen_BV,
        )


def backbone_generator(
    cfg: DecoderConfig, *, eos: Sequence[int] = (), chunk: int = 256
) -> Generator:
    """Decoding through a whole decoder. Its weights are (params, delta or None).

    On CPU cut the decoder between all layers first (`nn.stack.recut`): a scan copies each layer's weights and cache.
    """

    def bind(weights: tuple[PyTree, Delta | None], reading: bool) -> StepFn:
        params, delta = weights
        if delta is not None and not reading:  # both are in the cache by now
            outer = delta.outer.replace(prompt_BPD=None, embed_BD=None)
            delta = delta.replace(outer=outer)

        def step(
            ids_BL: Array, mask_BL: Array, cache: PyTree
        ) -> tuple[Float[Array, "B V"], PyTree]:
            out = Decoder(cfg).apply(
                {"params": params}, ids_BL, mask_BL, delta=delta, cache=cache, logits="last"
            )
            return out.logits[:, 0], out.cache

        return step

    def new_cache(weights: tuple[PyTree, Delta | None], batch: int, slots: int) -> PyTree:
        prompt = None if weights[1] is None else weights[1].outer.prompt_BPD
        return decoder_cache(cfg, batch, slots + (0 if prompt is None else prompt.shape[1]))

    return Generator(bind, new_cache, limit=cfg.max_positions, eos=eos, chunk=chunk)


# ----------------------------------------------------------------------------------------------- on the host


def _snapshot(
    state: _State,
    stopped: dict[int, tuple[int, str]],
    stop: Sequence[str],
    text_of: Callable[[list[int]], str] | None,
) -> Generated:
    """What there is so far. Rows found to have met a stop string enter `stopped`: (tokens kept, text)."""
    ids_BT, count_B, done_B, ended_B = jax.device_get(
        (state.ids_BT, state.count_B, state.done_B, state.ended_B)
    )
    ids, reason, texts, end = [], [], [], []
    for i, row in enumerate(ids_BT):
        own = row[: count_B[i]].tolist()
        text = None if text_of is None else text_of(own)
        if i not in stopped and text is not None and any(s in text for s in stop):
            # A stop string may begin inside a token, so the ids cannot be counted off the text: the shortest run of
            # tokens whose text contains it is looked for.
            kept = next(
                n for n in range(1, len(own) + 1) if _cut(text_of(own[:n]), stop) is not None
            )
            stopped[i] = kept, _cut(text, stop)
        if i in stopped:
            kept, text = stopped[i]
            own, why = own[:kept], "stop"
        else:
            why = "eos" if ended_B[i] else "length" if done_B[i] else None
        ids.append(own)
        reason.append(why)
        texts.append(text)
        end.append(int(row[count_B[i]]) if why == "eos" else None)
    return Generated(ids, reason, None if text_of is None else texts, end)


def _cut(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string in it, or None."""
    places = [text.find(s) for s in stop if s in text]
    return text[: min(places)] if places else None


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _chunks(
    prompts: Sequence[Sequence[int]], chunk: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) [B, L], padded at the right to whole chunks and a power of two for the last of `longest` tokens."""
    rest = longest % chunk
    width = longest - rest
    if rest:
        width += min(chunk, max(_SHORTEST, 1 << (rest - 1).bit_length()))
    ids, mask = np.zeros((len(prompts), width), np.int32), np.zeros((len(prompts), width), bool)
    for i, prompt in enumerate(prompts):
        ids[i, : len(prompt)], mask[i, : len(prompt)] = prompt, True
    return ids, mask


def _spans(width: int, chunk: int) -> list[tuple[int, int]]:
    return [(start, min(start + chunk, width)) for start in range(0, width, chunk)]
