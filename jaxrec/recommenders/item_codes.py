"""Floor 4: how a recommender comes by its items' semantic ids: vectors of the items, then RQ-VAE or RQ-k-means.

A folder that holds a table already is read, so that several seeds of one experiment share their ids.
"""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrec import mesh as meshes
from jaxrec.data import item_codes
from jaxrec.data.histories import Histories
from jaxrec.data.item_codes import ItemCodes
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.models.items import semantic_id as models
from jaxrec.models.items.semantic_id import RqVae, RqVaeConfig
from jaxrec.models.text.sentence import SentenceEncoder
from jaxrec.objectives.semantic_id import SemanticIdWeights, semantic_id
from jaxrec.training import loop, optimizer, step
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class SemanticIdConfig:
    """From item vectors to distinct tuples of codes."""

    kind: Literal["rqvae", "rqkmeans"] = "rqvae"
    vae: RqVaeConfig = (
        RqVaeConfig()
    )  # its sizes are those of RQ-k-means too; d_in follows the vectors
    collisions: Literal["extra", "reassign"] = "extra"
    normalised: bool = False  # rqkmeans: residuals of length 1 (GRID)
    weights: SemanticIdWeights = SemanticIdWeights()
    warm: int = 300  # rqvae: steps of the plain autoencoder before the codebooks are placed
    rows: int = 1024
    opt: OptConfig = OptConfig(lr=1e-3, warmup=20)
    loop: LoopConfig = LoopConfig(steps=2000, log_every=100, progress=False)
    tokens: int = 64  # of a text that the sentence encoder reads


def read_or_make(
    folder: str | Path, vectors: Any, cfg: SemanticIdConfig, n_items: int
) -> ItemCodes:
    """The table in `folder`, or a new one from `vectors()`, saved there.

    cfg: settings by which a new one is made. n_items: how many items the histories know.

    Raises ItemCodesError where the table is of another catalogue.
    """
    folder = Path(folder)
    if (folder / "codes.npy").is_file():
        codes = item_codes.load(folder)
        if len(codes) != n_items:
            raise item_codes.ItemCodesError(
                f"{folder} names {len(codes)} items, the histories know {n_items}: name another folder"
            )
        return codes
    codes = make(vectors(), cfg, folder)
    codes.save(folder)
    return codes


def make(
    vectors_IE: Float[np.ndarray, "I E"], cfg: SemanticIdConfig, out: str | Path | None = None
) -> ItemCodes:
    """Distinct tuples for all items. OUT: the autoencoder's log and checkpoints.

    Facts: `collisions_before` and `collisions` (shares of items), `usage` and `perplexity` by level (before the
    collisions were dealt with), `unexplained` (squared reconstruction error over the vectors' variance), `wall_s`.
    Raises ItemCodesError for vectors that are fewer than two, not finite or all alike, and for too few levels.
    """
    began = time.perf_counter()
    item_codes.check_vectors(vectors_IE)
    centred_IE = vectors_IE - vectors_IE.mean(0, keepdims=True)
    unit_IE = (centred_IE / np.sqrt(np.square(centred_IE).mean())).astype(np.float32)
    if cfg.kind == "rqkmeans":
        source = vectors_IE if cfg.normalised else unit_IE
        found = models.residual_kmeans(
            source, cfg.vae.sizes, cfg.loop.seed, normalised=cfg.normalised
        )
        codes_IQ, distance_IC = found.codes_IQ, found.distance_IC
        # of normalised residuals what is left over says nothing of the vectors themselves
        unexplained = None if cfg.normalised else float(np.square(found.left_IE).mean())
    else:
        codes_IQ, distance_IC, unexplained = _autoencoded(unit_IE, cfg, out)
    raw = ItemCodes(codes_IQ, cfg.vae.sizes)
    whole = (
        item_codes.extra_code(raw)
        if cfg.collisions == "extra"
        else item_codes.reassign(raw, distance_IC)
    )
    facts = {
        "kind": cfg.kind,
        "collisions_before": item_codes.collision_rate(codes_IQ),
        "collisions": item_codes.collision_rate(whole.codes_IQ),
        "resolved_by": cfg.collisions,
        "moved": float((whole.codes_IQ[:, : raw.levels] != codes_IQ).any(1).mean()),
        **item_codes.usage(codes_IQ, cfg.vae.sizes),
        "unexplained": unexplained,
        "wall_s": round(time.perf_counter() - began, 1),
    }
    return dataclasses.replace(whole, facts=facts)


def _autoencoded(
    x_ID: np.ndarray, cfg: SemanticIdConfig, out: str | Path | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """(codes, distances to the last level's codes, mean squared error) of a fitted RQ-VAE."""
    vae = dataclasses.replace(cfg.vae, d_in=x_ID.shape[1])
    model, devices = RqVae(vae), meshes.make()
    seed = cfg.loop.seed
    # a small catalogue fills a batch by repeating itself: sources want one full batch at least
    rows = cfg.rows
    params = meshes.sharded_init(
        devices,
        lambda key: model.init(key, jnp.zeros((1, vae.d_in)), None)["params"],
        jax.random.key(seed),
    )
    with tempfile.TemporaryDirectory() as spare:
        folder = Path(out or spare)
        # The plain autoencoder comes first, so that the codebooks are placed among encodings that mean something
        # already.
        if cfg.warm:
            params = _fitted(x_ID, model, cfg, params, None, folder / "warm", devices, rows)[0]
        z_IE = np.asarray(_encoder(model)(params, x_ID))
        trained = params.get("codebook")
        extra = models.begin(vae, z_IE, None if trained is None else np.asarray(trained), seed)
        params, extra = _fitted(x_ID, model, cfg, params, extra, folder / "vae", devices, rows)

    @jax.jit
    def coded(params, extra, x_BD):
        found = model.apply({"params": params}, x_BD, extra)
        code_CE = extra.code_QCE[-1]
        if vae.codebook == "gradient":
            code_CE = code_CE + params["codebook"][-1]
        error = jnp.square(found["made"] - x_BD).mean()
        return found["codes"], models.distances(found["residual"][-1], code_CE), error

    codes, distance, error = jax.device_get(coded(params, extra, jnp.asarray(x_ID)))
    return codes.astype(np.int64), distance[:, : vae.sizes[-1]], float(error)


def _encoder(model: RqVae) -> Any:
    return jax.jit(lambda params, x_BD: model.apply({"params": params}, x_BD, method="encode"))


def _fitted(
    x_ID: np.ndarray,
    model: RqVae,
    cfg: SemanticIdConfig,
    params: Any,
    extra: Any,
    out: Path,
    devices: jax.sharding.Mesh,
    rows: int,
) -> tuple[Any, Any]:
    """One run of the loop, quantised if there are codebooks: (parameters, codebooks)."""
    steps = cfg.warm if extra is None else cfg.loop.steps
    source = Prefetch(
        ArraySource(x_ID, rows, seed=cfg.loop.seed, share=meshes.process_rows(devices, rows))
    )
    optim = optimizer.make(cfg.opt, steps)
    state = step.init_state(devices, params, optim, extra=extra, source=source.init())
    loss, weigh = semantic_id(model, cfg.weights, quantised=extra is not None)
    move = None if extra is None else lambda extra, stats: models.commit(model.cfg, extra, stats)
    one = step.make_step(loss, weigh, optim, state, commit=move)
    fitted = loop.fit(
        one, state, source, config=dataclasses.replace(cfg.loop, steps=steps), mesh=devices,
        rows=rows, out=out, resolved=cfg, title="semantic ids",
    )  # fmt: skip
    return fitted.state.params, fitted.state.extra


# --------------------------------------------------------------------------------- item vectors


def text_vectors(
    texts: Sequence[str], tokens: int = 64, encoder: str = ""
) -> Float[np.ndarray, "I E"]:
    """Sentence vectors of the items' texts, of length 1; texts lose what lies beyond `tokens`. encoder: "": MiniLM."""
    return SentenceEncoder.load(encoder or None, limit=tokens)(texts)


def taken_together(
    train: Histories, dims: int, reach: int = 5, seed: int = 0
) -> Float[np.ndarray, "I E"]:
    """Vectors of length 1 of items by who is taken near whom: positive PMI, factorised (Levy & Goldberg 2014).

    Two items of a history count 1 / distance when at most `reach` apart. An item that is never taken is at 0, and so
    are all where no two are taken together oftener than by chance.

    train: who took what, in order. dims: width of the vectors, at most the items less one. seed: of the vector that the
    factorisation starts from.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import ArpackError, svds

    size, pairs = train.n_items, []
    row_T = train.row_T
    for apart in range(1, reach + 1):
        same = row_T[apart:] == row_T[:-apart]
        pairs.append((train.item_T[:-apart][same], train.item_T[apart:][same], 1.0 / apart))
    left = np.concatenate([a for a, _, _ in pairs])
    right = np.concatenate([b for _, b, _ in pairs])
    count = np.concatenate([np.full(len(a), w) for a, _, w in pairs])
    whole = coo_matrix((count, (left, right)), (size, size)).tocsr()
    whole = (whole + whole.T).tocoo()
    share = np.asarray(whole.sum(1)).ravel()
    pmi = np.log(whole.data * share.sum() / (share[whole.row] * share[whole.col]))
    positive = coo_matrix((np.maximum(pmi, 0), (whole.row, whole.col)), (size, size)).tocsr()
    start = np.random.default_rng(seed).standard_normal(size)
    if not positive.count_nonzero():
        return np.zeros((size, max(min(dims, size - 1), 1)), np.float32)
    try:
        left_IE, strength, _ = svds(positive, k=min(dims, size - 1), v0=start)
    except ArpackError:  # it iterates, and on a few items need not converge: these are solved whole
        left_IE, strength, _ = np.linalg.svd(positive.toarray())
        left_IE, strength = left_IE[:, : size - 1][:, :dims], strength[: size - 1][:dims]
    # The singular values go to both sides in equal parts, the symmetric form of Levy & Goldberg 2014.
    vectors_IE = left_IE * np.sqrt(strength)[None]
    norm_I1 = np.linalg.norm(vectors_IE, axis=1, keepdims=True)
    return (vectors_IE / np.maximum(norm_I1, 1e-9)).astype(np.float32)
