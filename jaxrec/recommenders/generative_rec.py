"""Floor 4: generative recommendation: the next item's semantic id is written code by code, by beam search in a trie.

`fit` reads or makes the semantic ids, trains the decoder-only model on packed histories (or TIGER's encoder-decoder on
every prefix), and stops by what beam search finds for a fixed sample of the validation people.
"""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrec import checkpoint, config, mesh, ranking
from jaxrec.data.histories import Histories, Holdout
from jaxrec.data.history_rows import pack
from jaxrec.data.interaction_sets import DataConfig, read
from jaxrec.data.item_codes import ItemCodes, ItemCodesError, load, read_published
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.models.items import code_beam
from jaxrec.models.items.generative_rec import CodeDecoder, CodeDecoderConfig, item_vectors
from jaxrec.models.items.tiger import Tiger, TigerConfig
from jaxrec.objectives.generative_rec import generative_rec, tiger
from jaxrec.recommenders.item_codes import (
    SemanticIdConfig,
    read_or_make,
    taken_together,
    text_vectors,
)
from jaxrec.recommenders.recommender import NotFitted, Recommender, must_learn
from jaxrec.training import gradients, loop, optimizer, step
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig
from jaxrec.types import Shortlist

_LENGTHS = (4, 8, 12, 20, 32, 50, 100, 200)  # widths of what is asked: few programs, little padding


@dataclasses.dataclass(frozen=True)
class GenerativeRecConfig:
    """Semantic ids, the model over them, and how it is trained. The models' `sizes` follow the ids."""

    ids: SemanticIdConfig = SemanticIdConfig()
    ids_folder: str = (
        ""  # read if there is a table in it, else made and kept there; "": OUT/ids, always new
    )
    published: str = ""  # or a file of published ids (data.item_codes.read_published)
    texts: DataConfig | None = None  # whose items' texts the ids are made from
    together: int = (
        0  # dimensions of co-occurrence vectors beside the text's; without texts: alone (0: 64)
    )
    model: CodeDecoderConfig = CodeDecoderConfig()
    tiger: TigerConfig | None = None  # the encoder-decoder, in place of `model`
    max_length: int = 20  # items of a history that the model reads
    width: int = 20  # items a packed row
    windows: bool = (
        False  # long histories are trained on in windows, not by their newest part alone
    )
    rows: int = 128  # packed rows a batch; tiger: examples
    accum: int = 1
    smoothing: float = 0.0
    epochs: int = 40
    evaluate_every: int = 2  # epochs
    sample: int = 2000  # validation people that are asked; 0: all
    beams: int = 50
    valid_beams: int = 20
    mask_seen: bool = True  # in validation
    people: int = 128  # asked at once
    opt: OptConfig = OptConfig(lr=2e-3, warmup=100, weight_decay=0.01, b2=0.98)
    loop: LoopConfig = LoopConfig(monitor="N@10", mode="max", patience=5, log_every=100)


class GenerativeRec(Recommender):
    """Writes items' semantic ids. Its lists come from beam search: it has no score for every item (`lists_only`)."""

    kind = "generative_rec"
    lists_only = True

    def __init__(self, config: GenerativeRecConfig = GenerativeRecConfig()):
        self.config = config
        self.codes: ItemCodes | None = None
        self.params: Any = None
        self.facts: dict[str, Any] = {}

    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "GenerativeRec":
        """Makes or reads the ids, trains, and keeps the best epoch (without `valid`: the last).

        `facts` afterwards: epoch, epochs, value, epoch_s, valid_s, and the ids' own under `ids`. Raises ItemCodesError
        where the ids are not distinct or are another catalogue's.
        """
        if out is None:
            with tempfile.TemporaryDirectory() as folder:
                return self.fit(train, valid, folder)
        must_learn(train, valid)
        cfg, devices = self.config, mesh.make()
        self._build(self._ids(train, Path(out)))
        table = jnp.asarray(self.codes.codes_IQ, jnp.int32)
        make_init, source, size = self._examples(train)
        params = mesh.sharded_init(devices, make_init, jax.random.key(cfg.loop.seed))
        per_epoch = -(-size // cfg.rows)
        run = dataclasses.replace(
            cfg.loop, steps=cfg.epochs * per_epoch, eval_every=cfg.evaluate_every * per_epoch
        )
        if valid is None:
            run = dataclasses.replace(run, monitor="train/nll", mode="min", patience=0)
        optim = optimizer.make(cfg.opt, run.steps)
        state = step.init_state(devices, params, optim, source=source.init())
        objective = tiger if cfg.tiger else generative_rec
        one = step.make_step(
            *objective(self.model, cfg.smoothing), optim, state,
            gradients=gradients.summed(cfg.accum),
        )  # fmt: skip
        asked = valid and _sample(valid, cfg.sample, cfg.loop.seed)
        began, spent_asking = time.perf_counter(), []

        def evaluate(params: Any, done: int) -> dict[str, float]:
            at = time.perf_counter()
            self.params = params
            found = self._lists(asked.histories, cfg.valid_beams, cfg.mask_seen)
            rank_B = ranking.ranks_in_lists(found.items_BJ, asked.target_B)
            spent_asking.append(time.perf_counter() - at)
            return ranking.measures(rank_B, (5, 10)) | {"epoch": done / per_epoch}

        fitted = loop.fit(
            one, state, source, config=run, mesh=devices, rows=cfg.rows, out=Path(out) / "model",
            frozen={"codes": table}, evaluate=evaluate if valid is not None else None,
            resolved=cfg, title="generative",
        )  # fmt: skip
        spent = time.perf_counter() - began - sum(spent_asking)
        kept = valid is not None and fitted.best is not None
        best = Path(out) / "model" / "best"
        self.params = checkpoint.load_params(best) if kept else fitted.state.params
        steps = int(fitted.state.step)
        self.facts = {
            "epoch": (fitted.best if kept else steps) / per_epoch,
            "epochs": steps / per_epoch,
            "monitor": run.monitor,
            "value": fitted.value,
            "epoch_s": spent * per_epoch / max(steps, 1),
            "valid_s": float(np.mean(spent_asking)) if spent_asking else None,
            "ids": dict(self.codes.facts),
        }
        return self

    def recommend(self, histories: Histories, k: int = 10, *, mask_seen: bool = True) -> Shortlist:
        """The k likeliest real items that `beams` beams (at least k) find; seen ones take no beam's place."""
        self._fitted()
        found = self._lists(histories, max(k, self.config.beams), mask_seen)
        return Shortlist(found.items_BJ[:, :k], found.scores_BJ[:, :k])

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """Log-probabilities of the items that the beams end at; -inf for all others, which nobody has scored."""
        self._fitted()
        found = self._lists(histories, self.config.beams, False)
        scores_BI = np.full((len(histories), len(self.codes)), -np.inf, np.float32)
        row_BJ, at_BJ = np.nonzero(found.items_BJ >= 0)
        scores_BI[row_BJ, found.items_BJ[row_BJ, at_BJ]] = found.scores_BJ[row_BJ, at_BJ]
        return scores_BI

    def item_vectors(self) -> Float[np.ndarray, "I D"]:
        """The sum of each item's code vectors."""
        self._fitted()
        table_QCD = jnp.asarray(self.params["codes"]["table"])
        return np.asarray(item_vectors(table_QCD, jnp.asarray(self.codes.codes_IQ)))

    def save(self, folder: str | Path) -> None:
        """FOLDER/params, facts.json (with the config), and the ids in FOLDER/ids."""
        self._fitted()
        facts = {"kind": self.kind, "config": config.to_dict(self.config), "fit": self.facts}
        checkpoint.save_params(folder, self.params, facts)
        self.codes.save(Path(folder) / "ids")

    @classmethod
    def load(cls, folder: str | Path) -> "GenerativeRec":
        """What `save` wrote. Raises CheckpointError or ItemCodesError where the folder is not whole."""
        facts = checkpoint.load_facts(folder)
        if facts.get("kind") != cls.kind:
            raise checkpoint.CheckpointError(f"{folder} holds {facts.get('kind')!r}, no {cls.kind}")
        made = cls(config.from_dict(GenerativeRecConfig, facts["config"]))
        made._build(load(Path(folder) / "ids"))
        made.params, made.facts = checkpoint.load_params(folder), facts["fit"]
        return made

    # ---------------------------------------------------------------------------------- inside

    def _fitted(self) -> None:
        if self.params is None:
            raise NotFitted("this generative recommender has not been fitted or loaded yet")

    def _ids(self, train: Histories, out: Path) -> ItemCodes:
        cfg = self.config
        if cfg.published:
            return read_published(cfg.published, train.n_items)
        folder = Path(cfg.ids_folder) if cfg.ids_folder else out / "ids"
        return read_or_make(folder, lambda: self._vectors(train), cfg.ids, train.n_items)

    def _vectors(self, train: Histories) -> np.ndarray:
        """Texts' vectors, co-occurrence's, or both side by side, each of length 1."""
        cfg, parts = self.config, []
        if cfg.texts is not None:
            texts = read(cfg.texts).items.texts()
            if len(texts) != train.n_items:
                raise ItemCodesError(
                    f"texts: {len(texts)} items have texts, the histories know {train.n_items}"
                )
            parts.append(text_vectors(texts, cfg.ids.tokens))
        if cfg.together or not parts:
            parts.append(taken_together(train, cfg.together or 64, seed=cfg.ids.loop.seed))
        return np.concatenate(parts, axis=1)

    def _build(self, codes: ItemCodes) -> None:
        self.codes, cfg = codes, self.config
        sized = lambda part: dataclasses.replace(part, sizes=tuple(codes.sizes))
        self.model = Tiger(sized(cfg.tiger)) if cfg.tiger else CodeDecoder(sized(cfg.model))
        self._trie = code_beam.build(codes.codes_IQ)
        self._search = jax.jit(self._found, static_argnums=4)

    def _examples(self, train: Histories) -> tuple[Any, Prefetch, int]:
        """(init of the parameters from a key, the source, its examples)."""
        cfg, levels = self.config, self.codes.levels
        codes = jnp.zeros((1, 2, levels), jnp.int32)
        if cfg.tiger:
            arrays, make = prefixes(train, cfg.max_length)
            asked = (codes, jnp.ones((1, 2), bool), jnp.zeros(1, jnp.int32), codes[:, 0])
        else:
            arrays = pack(
                train, cfg.width, cfg.max_length, windows=cfg.windows, seed=cfg.loop.seed
            ).replace(times_BL=None)
            make, ones = None, jnp.ones((1, 2), jnp.int32)
            asked = (codes, codes, ones, ones)
        source = ArraySource(arrays, cfg.rows, seed=cfg.loop.seed, make=make)
        init = lambda key: self.model.init(key, *asked)["params"]
        return init, Prefetch(source), source.size

    def _lists(self, histories: Histories, beams: int, mask_seen: bool) -> Shortlist:
        """What beam search finds: rows of like length together, a fixed number of them at once."""
        cfg, table = self.config, jnp.asarray(self.codes.codes_IQ, jnp.int32)
        length_B = np.minimum(histories.length_B, cfg.max_length)
        order, sent = np.argsort(-length_B, kind="stable"), []
        for at in range(0, len(order), cfg.people):
            rows = order[at : at + cfg.people]
            part = histories.take(rows)
            items_BL = part.padded(_width(int(length_B[rows].max()), cfg.max_length))
            banned_BS = part.padded(_width(int(part.length_B.max())))
            if not mask_seen:  # of the same shape, so of the same program
                banned_BS = np.full_like(banned_BS, -1)
            short = ((0, cfg.people - len(rows)), (0, 0))
            fill = lambda x, short=short: np.pad(x, short, constant_values=-1).astype(np.int32)
            user_B = np.pad(part.user_B, short[0], constant_values=-1).astype(np.int32)
            with mesh.within(mesh.of(self.params)):
                found = self._search(
                    self.params, table, (fill(items_BL), user_B), fill(banned_BS), beams
                )
            sent.append((rows, found))
        # Nothing was fetched inside the loop, so that the devices had the next search while the host prepared the
        # one after.
        items_BJ = np.full((len(order), beams), -1, np.int64)
        scores_BJ = np.full((len(order), beams), -np.inf, np.float32)
        for rows, (items, scores) in sent:
            items_BJ[rows], scores_BJ[rows] = items[: len(rows)], scores[: len(rows)]
        return Shortlist(items_BJ, scores_BJ)

    def _found(
        self, params: Any, table: Array, asked: tuple[Array, Array], banned_BS: Array, beams: int
    ) -> tuple[Array, Array]:
        """The one program of a search: history, all levels, all beams of all rows."""
        items_BL, user_B = asked
        apply = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        free = code_beam.free_slots(self._trie, beams)
        more = (user_B,) if self.config.tiger else ()
        start = apply("start", table[jnp.maximum(items_BL, 0)], items_BL >= 0, free, *more)
        extend = lambda *args: apply("extend", *args)
        return code_beam.search(self._trie, *start, extend, beams, banned_BS)


def prefixes(train: Histories, length: int) -> tuple[dict[str, np.ndarray], Any]:
    """TIGER's examples: every item of a history but the first, asked after the `length` items before it.

    Gives the arrays that name them and `make`, which turns picked ones into a batch: {"items" [B, L] right-aligned, -1
    before them, "target" [B], "user" [B]}.
    """
    row_T, at_T = train.row_T, np.arange(len(train.item_T))
    named = at_T[at_T > train.start_B[row_T]]
    arrays = {"stop": named, "start": np.maximum(train.start_B[row_T[named]], named - length)}
    arrays["user"] = train.user_B[row_T[named]].astype(np.int32)

    def make(picked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        at_BL = picked["stop"][:, None] - length + np.arange(length)[None]
        items_BL = np.where(
            at_BL >= picked["start"][:, None], train.item_T[np.maximum(at_BL, 0)], -1
        )
        target_B = train.item_T[picked["stop"]].astype(np.int32)
        return {"items": items_BL.astype(np.int32), "target": target_B, "user": picked["user"]}

    return arrays, make


def _sample(asked: Holdout, count: int, seed: int) -> Holdout:
    """A fixed sample of people: the same at every evaluation."""
    if not count or count >= len(asked):
        return asked
    return asked.take(np.sort(np.random.default_rng(seed).permutation(len(asked))[:count]))


def _width(longest: int, limit: int = 10**9) -> int:
    """The next width that programs are compiled for."""
    return int(min(next((n for n in _LENGTHS if n >= longest), -(-longest // 100) * 100), limit))
