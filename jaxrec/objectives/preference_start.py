"""Floor 4: what preference training begins with: a language model and its pairs, or a personal one and its tenants'.

Both give one `PreferenceStart`, so that the step, the loop and the measuring know nothing of which it was.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec import mesh
from jaxrec.config import RunError
from jaxrec.data.pairs import (
    Pair,
    Thumb,
    hold_out,
    join_thumbs,
    pair_of,
    pair_rows,
    read_pairs,
    read_thumbs,
    thumb_rows,
)
from jaxrec.data.row_buckets import BucketedRows, in_buckets
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.data.store.place import StoreError
from jaxrec.data.store.reading import OpenStores, StoredRows, StoredSource
from jaxrec.data.store.row_kinds import writing_hash
from jaxrec.data.tenant import Tenant
from jaxrec.data.tenant_pairs import (
    both_thumbs,
    hold_out_last,
    pairs_of,
    tenant_pair_rows,
    tenant_thumb_rows,
    thumbs_of,
)
from jaxrec.models.language.tuned_folder import Tuned
from jaxrec.models.language.tuned_lm import LM, TenantLM, TunedLM
from jaxrec.models.personal.continuations import plain, scorer
from jaxrec.models.personal.personal_folder import Personal
from jaxrec.models.personal.profile_folder import starting_p
from jaxrec.rewards.judges import AnswerJudgeConfig, Choice, LanguageJudge, label
from jaxrec.structs import Pairs, Thumbs
from jaxrec.tables import RowAdam
from jaxrec.training import tuning

Kind = Literal["pairs", "thumbs"]


class NoPreferences(RunError, ValueError):
    """Tenants none of whom has a pair of answers to learn from."""


class PreferenceStart(NamedTuple):
    """What a run begins with, whatever model it is."""

    lm: LM
    tree: dict[str, Any]  # what trains, and all that stays
    reference: dict[str, Any]  # the tree of the reference policy: the same arrays
    rule: str  # of the paths that train
    by_row: dict[str, RowAdam] | None
    train: Pairs | Thumbs | StoredRows
    held: Pairs | Thumbs
    groups: list[str]  # of the held-out rows
    loaded: Tuned | Personal
    names: tuple[str, ...]  # tenants


# ------------------------------------------------------------------------------------------- a language model


def language_start(
    tuned: Tuned,
    reference: dict[str, Any],
    train: Sequence[Pair] | Sequence[Thumb] | OpenStores,
    held: Sequence[Pair] | Sequence[Thumb],
    *,
    rule: str = "",
    length: int = 256,
    dropout: float = 0.0,
    strict: bool = False,
) -> PreferenceStart:
    """A language model and the token rows of its pairs or thumbs; how many were cut or left out is printed.

    Args:
      tuned: the model with the Delta that is to train, new or an earlier stage's.
      reference: the tree before a new Delta was added; where it has a Delta itself, training starts from that one.
      train, held: what is learned from, what is measured on. Both not empty; what is learned from may be stores.
      rule: of the paths that train; "" for the Delta, or the backbone where there is none.
      length: tokens of a conversation. dropout: of the Delta's LoRA.
      strict: the first row that cannot be used stops, as `data.pairs.pair_rows` says.
    """
    tree = tuned.tree
    if "delta" in reference:
        tree = {**reference, "start": {"delta": reference["delta"]}}
    rule = rule or ("delta" if "delta" in tree else "backbone/.*")

    def encoded(rows: Sequence[Pair] | Sequence[Thumb], what: str) -> tuple:
        encode = pair_rows if isinstance(rows[0], Pair) else thumb_rows
        tokens, kept, skipped = encode(tuned.chat, rows, length, strict)
        print(f"{what}: {len(kept)} rows of {len(rows)}", *skipped.lines(), sep="; ", flush=True)
        return tokens, kept

    if isinstance(train, OpenStores):
        train.check_writing(writing_hash(tuned.chat))
        rows = train.rows
    else:
        rows, _ = encoded(train, "train")
    held_rows, kept = encoded(held, "held out")
    groups = [row.group for row in kept]
    lm = TunedLM(tuned.model, lora_dropout=dropout)
    return PreferenceStart(lm, tree, reference, rule, None, rows, held_rows, groups, tuned, ())


def read_preferences(
    data: Sequence[str],
    held: Sequence[str] = (),
    *,
    kind: Kind = "pairs",
    hold_out_every: int = 10,
    strict: bool = False,
    relabel: Callable[[list[Pair]], Path] | None = None,
) -> tuple[list, list]:
    """(training, held-out) pairs or thumbs; what was left out of them is printed.

    Held-out thumbs are joined to pairs where that can be, and so are measured as the other losses are.

    Args:
      data: sources to learn from, see `data.pairs`. held: to measure on; none: each `hold_out_every`-th of `data`.
      kind: what training takes.
      hold_out_every: a number of rows, at least 2.
      strict: the first unusable row stops.
      relabel: writes the training pairs anew as a judge prefers them, and gives the file that takes their place.
    """
    read = read_thumbs if kind == "thumbs" else read_pairs
    all_of = lambda sources: tuning.read_all(sources, lambda source: read(source, strict))
    if held:
        train, apart = all_of(data), all_of(held)
    else:
        train, apart = hold_out(all_of(data), hold_out_every)
    if kind == "thumbs":
        apart = join_thumbs(apart) or apart
    if relabel is not None:
        path = relabel(join_thumbs(train) if kind == "thumbs" else train)
        train = all_of((str(path),))
    return train, apart


def read_stored(
    opened: OpenStores, held: Sequence[str], *, kind: Kind, strict: bool = False
) -> tuple[OpenStores, list[Pair]]:
    """(training stores, held-out pairs): those of `held`, or those that the stores hold out themselves.

    opened: of pairs. held: sources, see `data.pairs`. kind: what training takes. strict: as of `read_preferences`.
    Raises StoreError where nothing is held out, and for what stores don't have: single thumbs, weights.
    """
    if kind == "thumbs":
        raise StoreError(
            "stores hold pairs of answers, not thumbs with another row's answer: kto reads files"
        )
    if opened.weights:
        raise StoreError("stores of pairs have no weights: name them without, they are one set")
    print(opened.said(), flush=True)
    apart = tuning.read_all(held, lambda source: read_pairs(source, strict))
    apart = apart or [pair_of(row, where) for where, row in opened.held()]
    if not apart:
        raise StoreError(
            "nothing is held out: name pairs to measure on with --held, or make the store with --hold-out-every 10"
        )
    return opened, apart


def relabel_pairs(
    tuned: Tuned, pairs: Sequence[Pair], judge: AnswerJudgeConfig, out: str | Path
) -> Path:
    """OUT/judged.jsonl: training pairs as the judge sees them. What their file prefers is not shown to it.

    Args:
      tuned: the model that judges, where the judge is a language model.
      pairs: of which every second one is turned round before it is judged.
      judge: who prefers, and by how much it must.
      out: the run's folder.
    """
    rule = judge.rule()
    if judge.kind == "language":
        first, encode = plain(tuned.chat)
        score = scorer(tuned.lm, tuned.tree, encode, first=first, length=judge.length)
        rule = LanguageJudge(score, judge.template)
    question = lambda p: "\n".join(text for _, text in p.prompt)
    turned = lambda n, p: (p.chosen, p.rejected) if n % 2 else (p.rejected, p.chosen)
    choices = [Choice(question(p), *turned(n, p), p.prompt) for n, p in enumerate(pairs)]
    path = Path(out) / "judged.jsonl"
    counts = label(choices, rule, path, judge.threshold)
    print("judged: " + ", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)
    return path


# ---------------------------------------------------------------------------------------------------- tenants


def tenant_start(
    model: Personal,
    tenants: Sequence[Tenant],
    devices: jax.sharding.Mesh,
    *,
    profile: str = "",
    kind: Kind = "pairs",
    held: int = 10,
    rule: str = "",
    question: int = 40,
    answer: int = 96,
) -> PreferenceStart:
    """A personal model with a table of the tenants' p, and rows of their questions and answers.

    Args:
      model: the personal model.
      tenants: those without preferences are left aside. devices: where p lies.
      profile: a folder of p to start from; "" for what the model's encoder gives.
      kind: "thumbs" takes each pair as two of them, beside the tenants' single ones.
      held: the last pairs of each tenant, held out.
      rule: of the paths that train; "" for the tenants' p alone.
      question, answer: tokens of a row.

    Raises NoPreferences where no tenant has a pair, PairError for a tenant with too few.
    """
    judged = [tenant for tenant in tenants if tenant.preferences]
    if not judged:
        raise NoPreferences(
            f"of {len(tenants)} tenants none has preferences (pairs of answers); from thumbs alone p is fitted by"
            " train.personalize --by gradient"
        )
    names = tuple(tenant.key for tenant in judged)
    train, apart = hold_out_last(pairs_of(judged), held)
    p_UE = starting_p(model, judged, profile)
    tree = {name: part for name, part in model.params.items() if name not in ("encoder", "profile")}
    # Two arrays, as the step gives the trained one's memory away.
    tree |= {"profile": {"p": jnp.asarray(p_UE)}, "start": mesh.place(devices, jnp.asarray(p_UE))}
    rows, kept, skipped = tenant_pair_rows(model.chat, train, names, question, answer)
    if kind == "thumbs":
        thumbs = [*both_thumbs(kept), *thumbs_of(judged)]
        rows, _, _ = tenant_thumb_rows(model.chat, thumbs, names, question, answer)
    held_rows, held_kept, held_skipped = tenant_pair_rows(
        model.chat, apart, names, question, answer
    )
    for line in (*skipped.lines(), *(f"held out: {x}" for x in held_skipped.lines())):
        print(line, flush=True)
    print(f"{len(names)} tenants: {len(kept)} pairs, {len(held_kept)} held out", flush=True)
    rule = rule or "profile/p"
    side = "answer" if kind == "thumbs" else "chosen"
    by_row = {"profile/p": RowAdam(ids=lambda batch: getattr(batch, side).tenant_B)}
    groups = [pair.group for pair in held_kept]
    return PreferenceStart(
        TenantLM(model.lm), tree, tree, rule, by_row if rule == "profile/p" else None, rows, held_rows, groups,
        model, names,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- both


def preference_batches(
    rows: Pairs | Thumbs | StoredRows,
    batch: int,
    lengths: Sequence[int] = (),
    *,
    seed: int = 0,
    share: slice | None = None,
) -> tuple[Prefetch, int]:
    """(source, how many shapes its batches have).

    Args:
      rows: to learn from. batch: how many of them a step takes, of the whole job.
      lengths: tokens that rows are sorted into; none: one length for all.
      seed: of their order.
      share: the rows of a batch that this process takes; None for all.
    """
    if isinstance(rows, StoredRows):
        if lengths:
            raise StoreError("the rows of a store have one length: leave buckets out")
        return Prefetch(StoredSource(rows, batch, seed=seed, share=share)), 1
    if not lengths:
        return Prefetch(ArraySource(rows, batch, seed=seed, share=share)), 1
    sorted_rows = in_buckets(rows, sorted(set(lengths)))
    source = BucketedRows(sorted_rows, batch, seed=seed, share=share)
    return Prefetch(source), len(sorted_rows)
