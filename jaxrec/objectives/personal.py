"""Floor 4: the stages that make a language model somebody's own: pretrain, retrofit, universal, personalize.

`params` and `frozen` are two parts of one tree; which is which is the script's rule of paths, so a loss joins them and
does not care.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrec import delta as deltas
from jaxrec import tables
from jaxrec.delta import DeltaConfig, take
from jaxrec.losses.labels import cross_entropy
from jaxrec.losses.ranking import info_nce
from jaxrec.losses.tokens import distil, next_token, token_sums
from jaxrec.models.personal.heads import GenerativeHead, memory_of, warm_start
from jaxrec.models.personal.inside import joined
from jaxrec.models.personal.lfe import LFE, extract, from_states
from jaxrec.models.personal.onboarding import blank
from jaxrec.models.personal.personal_lm import Context, PersonalLM
from jaxrec.models.personal.vocabulary import Vocabulary, bar_padding, vocabulary_of
from jaxrec.objectives.objective import Objective
from jaxrec.objectives.profiles import halves, told_apart
from jaxrec.objectives.restraint import NONE, Reference, Restraint, restraint_loss, restraint_terms
from jaxrec.structs import Aux, Delta, LFEOutput, Retrofit, Tokens, Turns
from jaxrec.training.gradients import Spanning
from jaxrec.training.partition import merge

Module = Any  # a flax module: what it is made of is no business of an objective


def targets(tokens: Tokens) -> Float[Array, ""]:
    """Weight of all predictions in a batch of token rows: the first token of a row is predicted by nothing."""
    # The floor lets a batch without any target give 0 instead of NaN.
    return jnp.maximum(tokens.loss_BL[:, 1:].sum(), 1e-6)


# ---------------------------------------------------------------------------------------------- pretrain


def pretrain(model: Module) -> Objective:
    """Next token over packed rows, mean over predicted tokens. Metrics: `nll` (nats), `accuracy`."""

    def loss(params, frozen, extra, batch: Tokens, totals, key_B):
        del frozen, extra, key_B
        out = model.apply(
            {"params": params},
            batch.ids_BL,
            batch.mask_BL,
            segments_BL=batch.segments_BL,
            positions_BL=batch.positions_BL,
        )
        sums = next_token(out.logits, batch.ids_BL, batch.loss_BL)
        nll = sums["nll"] / totals["tokens"]
        return nll, Aux({"nll": nll, "accuracy": sums["correct"] / totals["tokens"]})

    return Objective(loss, lambda batch: {"tokens": targets(batch)})


# ---------------------------------------------------------------------------------------------- retrofit


class RetrofitParts(NamedTuple):
    """The models of the retrofit: what is kept (backbone, LFE) and what is dropped at the end (the other three)."""

    backbone: Module
    teacher: Module  # any decoder of the same vocabulary; params under frozen["teacher"]
    lfe: LFE
    reader: GenerativeHead  # tiny decoder on Z, for distillation ("distil_head") and for spans ("denoise_head")


@dataclasses.dataclass(frozen=True)
class RetrofitWeights:
    """How much each of the four objectives counts."""

    distil: float = 1.0
    denoise: float = 1.0
    contrast: float = 0.5
    routing: float = 0.5
    temperature: float = 0.05


def retrofit(parts: RetrofitParts, weights: RetrofitWeights = RetrofitWeights()) -> Objective:
    """Distil + denoise + InfoNCE + routing, all from Z alone. Spans the batch through InfoNCE alone.

    Trains "lfe" and the training-only "distil_head", "denoise_head", "probe" (and by option "lfe_delta", a LoRA on the
    backbone's top layers); frozen: "backbone", "teacher".
    """

    def z_of(tree, batch: Retrofit, name: str) -> LFEOutput:
        tokens = getattr(batch, name)
        if batch.states is not None:
            return from_states(parts.lfe, tree["lfe"], batch.states[name], tokens.mask_BL)
        return extract(
            parts.backbone, parts.lfe, tree["backbone"], tree["lfe"], tokens, tree.get("lfe_delta")
        )

    def read(tree, head: str, z: LFEOutput, tokens: Tokens) -> Array:
        cfg, words = parts.reader.cfg, None
        if cfg.tied_to_backbone:
            words = vocabulary_of(parts.backbone.cfg, tree["backbone"], cfg.tokens)
        rows = (tokens.ids_BL, tokens.mask_BL)
        return parts.reader.apply(
            {"params": tree[head]}, *rows, memory_of(z), None, words, method="answer"
        ).logits

    def encode(params, frozen, extra, batch: Retrofit, key_B):
        del extra, key_B
        tree = merge(params, frozen)
        if batch.states is not None:
            words = vocabulary_of(parts.teacher.cfg, tree["teacher"])
            told = batch.states["continuation"].astype(jnp.float32)
            taught = words.scores(jax.lax.stop_gradient(told))
        else:
            taught = teacher_logits(
                parts.teacher, tree["teacher"], batch.context, batch.continuation
            )
        # A table may have more rows than the tokenizer has tokens; the teacher's mass on those is no target.
        taught = bar_padding(taught, parts.reader.cfg.tokens)
        student = read(tree, "distil_head", z_of(tree, batch, "context"), batch.continuation)
        restored = read(tree, "denoise_head", z_of(tree, batch, "corrupted"), batch.spans)
        first, second = z_of(tree, batch, "first"), z_of(tree, batch, "second")
        kernel, bias = tree["probe"]["kernel"], tree["probe"]["bias"]
        nll = lambda logits, tokens: _by_row(next_token, logits, tokens.ids_BL, tokens.loss_BL)
        routed = first.z_cls_BD @ kernel + bias[None]
        return {
            "distil": _by_row(distil, student, taught, batch.continuation.loss_BL),
            "continued": nll(student, batch.continuation),
            "denoised": nll(restored, batch.spans),
            "routed": _by_row(cross_entropy, routed, batch.topic_B, jnp.ones(routed.shape[0])),
            "first": first.z_cls_BD,
            "second": second.z_cls_BD,
        }

    def score(params, frozen, extra, seen, batch: Retrofit, totals, key_B):
        del params, frozen, extra, key_B
        # Rows that say the same thing must not be pushed apart as each other's negatives.
        same_BB = batch.meaning_B[:, None] == batch.meaning_B[None, :]
        contrast = info_nce(seen["first"], seen["second"], weights.temperature, same_BB)
        terms = {
            "distil": seen["distil"].sum() / totals["continuation"],
            "denoise": seen["denoised"]["nll"].sum() / totals["spans"],
            "contrast": contrast["nce"] / totals["rows"],
            "routing": seen["routed"]["nll"].sum() / totals["topics"],
        }
        loss = sum(getattr(weights, name) * term for name, term in terms.items())
        reported = {
            "z_nll": seen["continued"]["nll"].sum() / totals["continuation"],
            "denoise_accuracy": seen["denoised"]["correct"].sum() / totals["spans"],
            "contrast_accuracy": contrast["hits"] / totals["rows"],
            "routing_accuracy": seen["routed"]["correct"].sum() / totals["topics"],
        }
        return loss, Aux({**terms, **reported})

    def weigh(batch: Retrofit):
        return {
            "continuation": targets(batch.continuation),
            "spans": targets(batch.spans),
            "rows": jnp.float32(batch.topic_B.shape[0]),
            "topics": jnp.maximum((batch.topic_B >= 0).sum(), 1).astype(jnp.float32),
        }

    return Objective(Spanning(encode, score), weigh)


def retrofit_params(
    key: Array, parts: RetrofitParts, lora: DeltaConfig | None = None, topics: int = 1
) -> dict[str, Any]:
    """What `retrofit` trains: the LFE, the heads that are dropped at the end, and by option a LoRA on the backbone.

    Args:
      key: a random key. parts: the models.
      lora: changes to the backbone's layers that are trained along, if any.
      topics: how many of them the probe tells apart.
    """
    keys = jax.random.split(key, 5)
    ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    size = parts.lfe.cfg
    hidden = (jnp.zeros((1, 2, parts.backbone.cfg.d_model)),) * size.top_k
    lfe = parts.lfe.init(keys[0], hidden, mask)["params"]
    memory = memory_of(parts.lfe.apply({"params": lfe}, hidden, mask))
    words = None
    if parts.reader.cfg.tied_to_backbone:  # its shapes do not depend on how many words there are
        row = jnp.zeros((1, parts.reader.cfg.d_backbone))
        words = Vocabulary(row, row)
    read = lambda key: parts.reader.init(key, ids, mask, memory, vocabulary=words, method="answer")
    kernel = 0.02 * jax.random.normal(keys[3], (size.d_z, topics))
    params = {
        "lfe": lfe,
        "distil_head": read(keys[1])["params"],
        "denoise_head": read(keys[2])["params"],
        "probe": {"kernel": kernel, "bias": jnp.zeros(topics)},
    }
    if lora is not None and not lora.empty:
        sites = type(parts.backbone).sites(parts.backbone.cfg)
        params["lfe_delta"] = deltas.init(keys[4], sites, lora)
    return params


def teacher_logits(
    teacher: Module, params: Any, context: Tokens, continuation: Tokens
) -> Float[Array, "B L V"]:
    """A decoder's logits over `continuation` when it has read `context`: no gradient, the padding between ignored.

    Args:
      teacher: the decoder.
      params: its weights.
      context, continuation: token rows, each padded for itself.
    """
    rows = joined(context, continuation)
    out = teacher.apply({"params": params}, rows.ids_BL, rows.mask_BL)
    return jax.lax.stop_gradient(out.logits[:, context.ids_BL.shape[1] :])


# --------------------------------------------------------------------------------------------- universal


def universal(
    lm: PersonalLM,
    encoder: Module,
    *,
    teacher: Module | None = None,
    distil_weight: float = 0.0,
    contrast: float = 0.2,
    p_dropout: float = 0.1,
    restraint: Restraint = NONE,
    reference: Reference = "earlier",
) -> Objective:
    """SFT of one policy for many tenants: answers to a question, by the p that the encoder infers of each.

    Each row's evidence is read in two halves. The mean of their vectors is p; and as both halves are of one tenant,
    InfoNCE of weight `contrast` asks them to be nearer to each other than to other tenants' (as speaker embeddings are
    trained, Wan 2018): so p tells tenants apart before the head has learned to listen to it. Trains "hypernet",
    "encoder" and, where a head answers, "head"; frozen: "backbone", "lfe" (and "teacher").

    Args:
      lm: the model; its config says whether a head answers from Z or the backbone with the person inside.
      encoder: from evidence to p.
      teacher: a decoder of the same vocabulary, its weights in frozen["teacher"].
      distil_weight: of KL(teacher || policy) (Hinton 2015), where there is a teacher.
      contrast: weight of InfoNCE between the two halves.
      p_dropout: part of the rows that get p = 0, so that the policy is trained for a stranger too.
      restraint: weights of a KL to `reference` and of a penalty on tokens that the tenant disallows.
      reference: what that KL is taken to, one of `restraint.REFERENCES`.

    Logits are made as a whole where a term reads them (teacher, restraint) or a head's own small table gives them;
    otherwise only the tokens' log-probabilities are. Raises ValueError for a KL to a teacher that is not there.
    """
    if restraint.kl and reference == "teacher" and teacher is None:
        raise ValueError("a KL to the teacher needs a teacher")
    tokens = lm.cfg.head.tokens
    whole = restraint.needs or teacher is not None or not lm.borrows

    def reference_logits(tree: Any, context: Context, batch: Turns, p_BE: Array) -> Array:
        if reference in ("teacher", "backbone"):
            module = teacher if reference == "teacher" else lm.backbone
            taught = teacher_logits(module, tree[reference], batch.question, batch.answer)
            return bar_padding(taught, tokens)
        # the earlier policy's answer to the same p, or this one's to nobody, is nobody's to move here
        before = {**tree, **tree["reference"]} if reference == "earlier" else tree
        p_BE = p_BE if reference == "earlier" else jnp.zeros_like(p_BE)
        before, p_BE = jax.lax.stop_gradient((before, p_BE))
        return lm.answer(before, context, batch.answer, lm.personal(before, p_BE)).logits

    def encode(params, frozen, extra, batch: Turns, key_B):
        del extra
        tree = merge(params, frozen)
        first_BE, second_BE = (
            encoder.apply({"params": tree["encoder"]}, half) for half in halves(batch.evidence)
        )
        # Whole vectors are dropped and not single entries: p = 0 is what a stranger has, and the policy must have
        # met it.
        drop_B = jax.vmap(lambda key: jax.random.bernoulli(key, p_dropout))(key_B)
        p_BE = jnp.where(drop_B[:, None], 0.0, (first_BE + second_BE) / 2)
        context, delta = lm.read(tree, batch.question, batch.states_BLD), lm.personal(tree, p_BE)
        seen = {"first": first_BE, "second": second_BE}
        # Where no term reads whole logits, a borrowed vocabulary is scored in chunks of positions.
        if not whole:
            log_probs = lm.log_probs(tree, context, batch.answer, delta)
            seen["tokens"] = _by_row(token_sums, *log_probs, batch.answer.loss_BL)
            return seen
        logits = lm.answer(tree, context, batch.answer, delta).logits
        if restraint.needs:
            seen["restraint"] = restraint_terms(
                restraint,
                tree,
                logits,
                lambda: reference_logits(tree, context, batch, p_BE),
                batch.answer,
                batch.tenant_B,
            )
        seen["tokens"] = _by_row(next_token, logits, batch.answer.ids_BL, batch.answer.loss_BL)
        if teacher is not None:
            taught = teacher_logits(teacher, tree["teacher"], batch.question, batch.answer)
            seen["distil"] = _by_row(
                distil, logits, bar_padding(taught, tokens), batch.answer.loss_BL
            )
        return seen

    def score(params, frozen, extra, seen, batch: Turns, totals, key_B):
        del params, frozen, extra, key_B
        nce = told_apart(seen, batch)
        terms = {
            "nll": seen["tokens"]["nll"].sum() / totals["tokens"],
            "contrast": nce["nce"] / totals["rows"],
        }
        loss = terms["nll"] + contrast * terms["contrast"]
        if teacher is not None:
            terms["distil"] = seen["distil"].sum() / totals["tokens"]
            loss = loss + distil_weight * terms["distil"]
        if restraint.needs:
            held = {name: x.sum() / totals["tokens"] for name, x in seen["restraint"].items()}
            terms |= held
            loss = loss + restraint_loss(restraint, held)
        terms["accuracy"] = seen["tokens"]["correct"].sum() / totals["tokens"]
        terms["tenants_told_apart"] = nce["hits"] / totals["rows"]
        return loss, Aux(terms)

    return Objective(Spanning(encode, score), _weigh_turns)


def universal_params(key: Array, lm: PersonalLM, encoder: Module, backbone: Any) -> dict[str, Any]:
    """What `universal` trains: the head, if there is one (warm, where sizes allow), A(p) and the profile encoder.

    Args:
      key: a random key.
      lm, encoder: as of `universal`.
      backbone: its weights, from which the head starts.
    """
    keys = jax.random.split(key)
    new = lm.init(keys[0])
    own = {
        "hypernet": new["hypernet"],
        "encoder": encoder.init(keys[1], blank(lm.cfg.lfe.d_z))["params"],
    }
    if lm.inside:
        return own
    return {"head": warm_start(new["head"], lm.cfg.head, backbone, lm.backbone.cfg), **own}


def _by_row(loss: Callable, *arrays: Array) -> Any:
    """A loss that sums over the batch, taken row by row: every result leads with B."""
    # Sums of each row, so that they pass from `encode` to `score` as leaves of [B] and only what meets other rows
    # (InfoNCE) needs the whole batch.
    return jax.vmap(lambda *row: loss(*(x[None] for x in row)))(*arrays)


# ------------------------------------------------------------------------------------------- personalize


def personalize(lm: PersonalLM, prior: float = 1e-3, restraint: Restraint = NONE) -> Objective:
    """SFT of many tenants' own vectors at once, everything else frozen.

    Trains "profile/p", each tenant's line by that tenant's answers alone; `prior` times the squared distance to
    frozen["start"] (the encoder's p, or zeros) keeps a p of few examples near where it began. `restraint` may add the
    KL to the head at that p, and a penalty on tokens that the tenant disallows.
    """

    def loss(params, frozen, extra, batch: Turns, totals, key_B):
        del extra, key_B
        tree = merge(params, frozen)
        # Read by `lookup`, so that the step may hand over the rows of the batch in place of the table: tenants who
        # are absent then do not move.
        p_BE = tables.lookup(tree["profile"]["p"], batch.tenant_B)
        away = jnp.square(p_BE - tree["start"][batch.tenant_B]).sum() / totals["rows"]
        context = lm.read(tree, batch.question, batch.states_BLD)
        logits, terms = _answered(
            lm, tree, context, batch, lm.personal(tree, p_BE), totals, restraint.needs
        )
        value = terms["nll"] + prior * away
        if restraint.needs:

            def reference() -> Array:
                start = lm.personal(tree, tree["start"][batch.tenant_B])
                return jax.lax.stop_gradient(lm.answer(tree, context, batch.answer, start).logits)

            rows = restraint_terms(restraint, tree, logits, reference, batch.answer, batch.tenant_B)
            held = {name: x.sum() / totals["tokens"] for name, x in rows.items()}
            terms |= held
            value = value + restraint_loss(restraint, held)
        return value, Aux({**terms, "away": away})

    return Objective(loss, _weigh_turns)


def personalize_delta(lm: PersonalLM) -> Objective:
    """SFT of many tenants' own Deltas of what answers, without p. Trains "delta", a bank with a row a tenant."""

    def loss(params, frozen, extra, batch: Turns, totals, key_B):
        del extra, key_B
        tree = merge(params, frozen)
        context = lm.read(tree, batch.question, batch.states_BLD)
        own = take(tree["delta"], batch.tenant_B)
        _, terms = _answered(lm, tree, context, batch, own, totals)
        return terms["nll"], Aux(terms)

    return Objective(loss, _weigh_turns)


def _answered(
    lm: PersonalLM,
    tree: Any,
    context: Context,
    batch: Turns,
    delta: Delta,
    totals: Any,
    whole: bool = False,
) -> tuple[Array | None, dict[str, Array]]:
    """(logits of the answers, where they are made or `whole` asks for them; `nll` (nats) and `accuracy` a token)."""
    logits = None
    if whole or not lm.borrows:
        logits = lm.answer(tree, context, batch.answer, delta).logits
        sums = next_token(logits, batch.answer.ids_BL, batch.answer.loss_BL)
    else:
        log_probs = lm.log_probs(tree, context, batch.answer, delta)
        sums = token_sums(*log_probs, batch.answer.loss_BL)
    per_token = {"nll": sums["nll"], "accuracy": sums["correct"]}
    return logits, {name: value / totals["tokens"] for name, value in per_token.items()}


def _weigh_turns(batch: Turns) -> dict[str, Float[Array, ""]]:
    return {"tokens": targets(batch.answer), "rows": jnp.float32(batch.tenant_B.shape[0])}
