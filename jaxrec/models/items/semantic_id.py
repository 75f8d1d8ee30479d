"""Floor 3: item vectors to semantic ids: the residual-quantised autoencoder (RQ-VAE), and residual k-means.

    x --encoder--> z = r_0;   code_q = the nearest to r_q of level q;   r_q+1 = r_q - code_q;   decoder(codes) ~ x

The codebooks begin as the k-means centres of all items' residuals, level by level, and then move either without
gradient (`ema`: the running mean of what falls to each code, van den Oord 2017) or by it (`gradient`). A code that
nothing has fallen to for a while is revived at a random residual of the batch. All of this lives in the train state's
`extra` and moves in `commit`, from the sums that the loss gives as `stats`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrec import mesh as meshes
from jaxrec.losses.quantization import rotate, straight_through
from jaxrec.nn.layers import Dense


@dataclasses.dataclass(frozen=True)
class RqVaeConfig:
    """The autoencoder and its codebooks. The defaults are TIGER's, with MiniLM's width."""

    d_in: int = 384
    hidden: tuple[int, ...] = (512, 256, 128)
    d_latent: int = 32
    sizes: tuple[int, ...] = (256, 256, 256)
    codebook: Literal["ema", "gradient"] = "ema"
    through: Literal["rotation", "straight"] = (
        "rotation"  # how the encoder's gradient passes the codes
    )
    decay: float = 0.99  # of the running means
    revive: float = 0.1  # a code is dead below this running count a step ...
    revive_every: int = 10  # ... and looked at so often; 0: never

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 2:
            raise ValueError(f"levels of {self.sizes} codes: every level needs two at least")


@struct.dataclass
class Codebooks:
    """`code_QCE` as it stands (`ema`), or what is added to the trained one (`gradient`); the running counts and sums.

    Levels of different size share C, the largest; the codes that a level lacks lie at 1e4, where nothing is near.
    """

    code_QCE: Any
    count_QC: Any
    sum_QCE: Any
    step: Any


class RqVae(nn.Module):
    """Encoder and decoder; parameters `codebook` [Q, C, E] only where it is trained by gradient."""

    cfg: RqVaeConfig

    def setup(self):
        c = self.cfg
        mlp = lambda sizes: [Dense(n, True, (2 / n) ** 0.5 / 2) for n in sizes]
        self.encoder = mlp((*c.hidden, c.d_latent))
        self.decoder = mlp((*reversed(c.hidden), c.d_in))
        if c.codebook == "gradient":
            shape = (len(c.sizes), max(c.sizes), c.d_latent)
            self.codebook = self.param("codebook", nn.initializers.normal(0.02), shape)

    def encode(self, x_BD: Array) -> Array:
        """z [B, E]."""
        return _mlp(self.encoder, x_BD)

    def decode(self, z_BE: Array) -> Array:
        """x as it is rebuilt [B, D]."""
        return _mlp(self.decoder, z_BE)

    def __call__(self, x_BD: Array, extra: Codebooks | None) -> dict[str, Array]:
        """`made` [B, D], `codes` [B, Q], `residual` and `code` [Q, B, E]. extra None: unquantised, the warm-up's."""
        z_BE = self.encode(x_BD)
        if self.is_initializing():
            self.decode(z_BE)
        if extra is None:
            return {"made": self.decode(z_BE)}
        code_QCE = extra.code_QCE
        if self.cfg.codebook == "gradient":
            code_QCE = code_QCE + self.codebook
        codes_BQ, residual_QBE, code_QBE = quantise(z_BE, code_QCE)
        pass_on = rotate if self.cfg.through == "rotation" else straight_through
        made_BD = self.decode(pass_on(z_BE, code_QBE.sum(0)))
        return {"made": made_BD, "codes": codes_BQ, "residual": residual_QBE, "code": code_QBE}


def _mlp(layers: Sequence[Dense], x: Array) -> Array:
    for layer in layers[:-1]:
        x = meshes.put(jax.nn.relu(layer(x)), "rows")
    return layers[-1](x)


def quantise(
    z_BE: Float[Array, "B E"], code_QCE: Float[Array, "Q C E"]
) -> tuple[Int[Array, "B Q"], Float[Array, "Q B E"], Float[Array, "Q B E"]]:
    """(codes, the residual that each level saw, the code it chose). Residuals carry z's gradient, not the codes'."""
    residual, codes, residuals, chosen = z_BE, [], [], []
    for table_CE in code_QCE:
        at_B = distances(jax.lax.stop_gradient(residual), table_CE).argmin(1)
        code_BE = table_CE[at_B]
        codes.append(at_B)
        residuals.append(residual)
        chosen.append(code_BE)
        # Only the encoder's commitment passes along the residuals; a code is moved by the level that chose it.
        residual = residual - jax.lax.stop_gradient(code_BE)
    return jnp.stack(codes, 1), jnp.stack(residuals), jnp.stack(chosen)


def distances(x_BE: Float[Array, "B E"], code_CE: Float[Array, "C E"]) -> Float[Array, "B C"]:
    """Squared distance of every row to every code."""
    cross_BC = jnp.einsum("be,ce->bc", x_BE, code_CE)
    # Expanded into a matrix product: the differences themselves would be a [B, C, E] array.
    return jnp.square(x_BE).sum(1)[:, None] - 2 * cross_BC + jnp.square(code_CE).sum(1)[None]


# ------------------------------------------------------------------------------------- codebooks


def begin(cfg: RqVaeConfig, z_IE: np.ndarray, trained_QCE: Any, seed: int) -> Codebooks:
    """Codebooks at the k-means centres of all items' residuals.

    Args:
      cfg: of the autoencoder.
      z_IE: what the encoder makes of every item.
      trained_QCE: the parameter that gradients move, where codes are trained so; it is taken off here.
      seed: of the clustering.
    """
    centres = residual_kmeans(z_IE, cfg.sizes, seed).centres
    # 1e4 in each number: the places that a level lacks are never the nearest.
    code_QCE = np.full((len(cfg.sizes), max(cfg.sizes), z_IE.shape[1]), 1e4, np.float32)
    for level, centre_CE in enumerate(centres):
        code_QCE[level, : len(centre_CE)] = centre_CE
    count_QC = np.ones(code_QCE.shape[:2], np.float32)
    offset = 0 if trained_QCE is None else np.asarray(trained_QCE)
    return Codebooks(
        jnp.asarray(code_QCE - offset), jnp.asarray(count_QC), jnp.asarray(code_QCE),
        jnp.zeros((), jnp.int32),
    )  # fmt: skip


def stats_of(
    cfg: RqVaeConfig, out: dict[str, Array], key: Array, trained_QCE: Array | None
) -> dict[str, Array]:
    """What `commit` needs of one microbatch: counts, sums of residuals, and a random residual for each code.

    Sums over microbatches: where there are several, a code is revived at the mean of as many residuals.

    Args:
      cfg: of the autoencoder.
      out: what the quantiser gave for the microbatch.
      key: random, for the residuals that revive codes.
      trained_QCE: as of `begin`.
    """
    codes_QB, residual_QBE = out["codes"].T, jax.lax.stop_gradient(out["residual"])
    hot_QBC = jax.nn.one_hot(codes_QB, max(cfg.sizes))
    # A random row for each code, so that two dead codes are revived at different residuals.
    rows = jax.random.randint(key, hot_QBC.shape[::2], 0, codes_QB.shape[1])
    spare_QCE = jnp.take_along_axis(residual_QBE, rows[:, :, None], axis=1)
    if trained_QCE is not None:
        # A trained codebook is added to what stands here, so its own part is taken off.
        spare_QCE = spare_QCE - jax.lax.stop_gradient(trained_QCE)
    return {
        "count_QC": hot_QBC.sum(1),
        "sum_QCE": jnp.einsum("qbc,qbe->qce", hot_QBC, residual_QBE),
        "spare_QCE": spare_QCE,
        "parts": jnp.ones(()),
    }


def commit(cfg: RqVaeConfig, extra: Codebooks, stats: dict[str, Array]) -> Codebooks:
    """The codebooks after a step: running means moved, dead codes revived.

    count <- decay count + (1 - decay) n and sum <- decay sum + (1 - decay) (sum of residuals), code = sum / count. A
    revived code counts as 1, so that it has time to find its own.
    """
    keep = cfg.decay
    count_QC = keep * extra.count_QC + (1 - keep) * stats["count_QC"]
    sum_QCE = keep * extra.sum_QCE + (1 - keep) * stats["sum_QCE"]
    # The codes that a smaller level lacks have a count of 0 and would be revived, were they not left out.
    there = np.arange(count_QC.shape[1])[None] < np.array(cfg.sizes)[:, None]
    due = cfg.revive_every > 0 and (extra.step + 1) % max(cfg.revive_every, 1) == 0
    dead_QC = (count_QC < cfg.revive) & there & due
    spare_QCE = stats["spare_QCE"] / stats["parts"]
    if cfg.codebook == "ema":
        # A code that nothing fell to keeps its place: its count and its sum decay alike.
        moved = sum_QCE / jnp.maximum(count_QC, 1e-6)[:, :, None]
        code_QCE = jnp.where(there[:, :, None], moved, extra.code_QCE)
    else:
        code_QCE = extra.code_QCE
    dead_QC1 = dead_QC[:, :, None]
    return Codebooks(
        code_QCE=jnp.where(dead_QC1, spare_QCE, code_QCE),
        count_QC=jnp.where(dead_QC, 1.0, count_QC),
        sum_QCE=jnp.where(dead_QC1, spare_QCE, sum_QCE),
        step=extra.step + 1,
    )


# --------------------------------------------------------------------------------------- k-means


@dataclasses.dataclass(frozen=True)
class ResidualKMeans:
    """Codes [I, Q], each level's centres [C, E], the residual that is left [I, E], and the last level's distances."""

    codes_IQ: np.ndarray
    centres: tuple[np.ndarray, ...]
    left_IE: np.ndarray
    distance_IC: np.ndarray


def residual_kmeans(
    x_IE: Float[np.ndarray, "I E"],
    sizes: tuple[int, ...],
    seed: int = 0,
    *,
    normalised: bool = False,
    rounds: int = 30,
) -> ResidualKMeans:
    """RQ-k-means: k-means (FAISS, restarted from data points), then again on what each level leaves over.

    A level that has no fewer codes than there are distinct residuals has these as its centres.

    Args:
      x_IE: the items' vectors.
      sizes: codes of each level.
      seed: of the clustering.
      normalised: every residual but the first is scaled to length 1 before it is clustered (GRID): a level then tells
        directions apart, and the few items that are far off no longer take most of its codes. What is left over is
        then no residual of x any more, only of its directions.
      rounds: of each clustering.
    """
    import faiss

    residual_IE = np.ascontiguousarray(x_IE, np.float32)
    codes, centres = [], []
    for level, size in enumerate(sizes):
        if normalised and level:
            norm = np.linalg.norm(residual_IE, axis=1, keepdims=True)
            residual_IE = residual_IE / np.maximum(norm, 1e-9)
        centre_CE = np.unique(residual_IE, axis=0)
        # FAISS refuses to make more clusters than there are points.
        if len(centre_CE) > size:
            # FAISS samples 256 points a centre and warns below 39; all items are used, however few or many.
            kmeans = faiss.Kmeans(
                residual_IE.shape[1], size, niter=rounds, seed=seed + level, verbose=False,
                min_points_per_centroid=1, max_points_per_centroid=10**6,
            )  # fmt: skip
            kmeans.train(residual_IE)
            centre_CE = np.asarray(kmeans.centroids)
        distance_IC = _distances(residual_IE, centre_CE)
        code_I = distance_IC.argmin(1)
        codes.append(code_I)
        centres.append(centre_CE)
        residual_IE = residual_IE - centre_CE[code_I]
    # codes that the last level lacks are as far as can be
    missing = ((0, 0), (0, sizes[-1] - distance_IC.shape[1]))
    distance_IC = np.pad(distance_IC, missing, constant_values=1e6)
    return ResidualKMeans(
        np.stack(codes, 1).astype(np.int64), tuple(centres), residual_IE, distance_IC
    )


def _distances(x_IE: np.ndarray, centre_CE: np.ndarray) -> np.ndarray:
    squares = np.square(x_IE).sum(1)[:, None] + np.square(centre_CE).sum(1)[None]
    return squares - 2 * x_IE @ centre_CE.T
