"""Floor 3: labels from the text alone, the same for everybody (the pooled model); and a LoRA of their own for a person.

    z [I, D] --principal components of the training items--> x [I, W] --Selector without p--> log p(label)

Its number of steps is the one with the best held-out loss over a cross-fit on the training items, so nothing is to be
tuned by hand on a new data set. The same cross-fit gives each *training* item a prediction by a model that never saw
it: that is what the personal model reads, or it would trust the item model on questions more than it may.

These fits have loops of their own, inside one program each: full batches of a few hundred numbers an item, some hundred
steps, six fits a fold. A step of `training.step` costs more to call than such a step to compute.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree

from jaxrec.data.judgement_folds import Cards
from jaxrec.data.judgements import Judgements
from jaxrec.models.personal.selector import Selector, SelectorConfig


@dataclasses.dataclass(frozen=True)
class ItemConfig:
    """The pooled model and its training: full batches, one weighted row an item."""

    components: int = 256
    width: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.1
    most_steps: int = 120
    parts: int = 5  # of the cross-fit


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """A LoRA of their own per person, on both layers of the pooled model. `decay` pulls it towards none."""

    rank: int = 2
    steps: int = 30
    lr: float = 0.01
    decay: float = 1.0


@dataclasses.dataclass(frozen=True)
class ItemView:
    """What a fold knows of all items."""

    x_IW: np.ndarray  # principal components of z, scaled by their spread
    base_IC: np.ndarray  # log base rates of the labels, in the item's language
    overall_C: np.ndarray  # base rates over all
    log_p_IC: np.ndarray  # the pooled model
    crossfit_IC: (
        np.ndarray
    )  # the same for unseen items; on training items by a model that did not see the item
    params: PyTree
    steps: int
    projection: "Projection"  # which gave x_IW


@dataclasses.dataclass(frozen=True)
class Projection:
    """Texts' vectors to principal components of the training items' standardised vectors, strongest first.

    scale: what makes the mean square over all of them 1.
    """

    mean_D: np.ndarray
    spread_D: np.ndarray
    direction_DW: np.ndarray
    scale: np.floating

    @classmethod
    def of(
        cls, z_ID: Float[np.ndarray, "I D"], seen_I: Bool[np.ndarray, " I"], most: int
    ) -> "Projection":
        """Onto at most `most` components of the vectors that are training items' (`seen_I`)."""
        mean_D, spread_D = z_ID[seen_I].mean(0), z_ID[seen_I].std(0) + 1e-3
        x_ID = (z_ID - mean_D) / spread_D
        # eigh gives eigenvalues rising, so the strongest components are the last columns.
        _, direction_DD = np.linalg.eigh(x_ID[seen_I].T @ x_ID[seen_I])
        direction_DW = direction_DD[:, ::-1][:, :most]
        # One number for all components: scaled each to 1, the weak ones would weigh as much as the strong ones.
        scale = np.sqrt(np.mean((x_ID @ direction_DW)[seen_I] ** 2))
        return cls(mean_D, spread_D, direction_DW, scale)

    def __call__(self, z_ID: Float[np.ndarray, "I D"]) -> Float[np.ndarray, "I W"]:
        """Components of any texts' vectors."""
        x_IW = ((z_ID - self.mean_D) / self.spread_D) @ self.direction_DW
        return (x_IW / self.scale).astype(np.float32)


def view_items(
    data: Judgements, train_N: np.ndarray, z_ID: np.ndarray, cfg: ItemConfig, seed: int
) -> ItemView:
    """Fits the pooled model on some judgements and looks at every item.

    Args:
      data: all judgements.
      train_N: numbers of those that are fitted.
      z_ID: the text of each item, as a vector.
      cfg: of the pooled model and its fit.
      seed: of its weights and batches.
    """
    labels, items = len(data.labels), len(data.parts)
    count_IC = np.zeros((items, labels), np.float32)
    np.add.at(count_IC, (data.item_N[train_N], data.label_N[train_N]), 1)
    # Only items with a training judgement shape the components: other items may be the test's.
    seen_I = count_IC.sum(1) > 0
    base_IC, overall_C = base_rates(count_IC, data.language_I, len(data.languages))
    projection = Projection.of(z_ID, seen_I, cfg.components)
    x_IW = projection(z_ID)
    part_I = np.random.default_rng(seed).integers(0, cfg.parts, items)
    keep_FI = part_I[None, :] != np.arange(cfg.parts)[:, None]
    # The fits of the cross-fit leave out a part each; the last one has everything, and nothing held out.
    fit_FIC = np.concatenate([count_IC[None] * keep_FI[..., None], count_IC[None]])
    held_FIC = np.concatenate([count_IC[None] * ~keep_FI[..., None], 0 * count_IC[None]])
    model = _model(cfg, x_IW.shape[1], labels)
    log_p_FIC, params, steps = _fit(model, cfg, x_IW, np.log(base_IC), fit_FIC, held_FIC, seed)
    # Each training item is read by the fit that left out its part, any other item by the last one.
    crossfit_IC = np.where(seen_I[:, None], log_p_FIC[part_I, np.arange(items)], log_p_FIC[-1])
    return ItemView(
        x_IW, np.log(base_IC), overall_C, log_p_FIC[-1], crossfit_IC, params, steps, projection
    )


def pooled_log_p(
    params: PyTree, cfg: ItemConfig, x_IW: np.ndarray, base_IC: np.ndarray
) -> Float[np.ndarray, "I C"]:
    """Log p of the labels of any items by a fitted pooled model.

    Args:
      params: of the pooled model.
      cfg: of the pooled model.
      x_IW: what it reads of each item.
      base_IC: log base rates, which it corrects.
    """
    model = _model(cfg, x_IW.shape[1], base_IC.shape[1])
    x, base = jnp.asarray(x_IW), jnp.asarray(base_IC)
    return np.asarray(jax.nn.log_softmax(model.apply({"params": params}, x, base=base)))


def base_rates(
    count_IC: np.ndarray, language_I: np.ndarray, languages: int
) -> tuple[np.ndarray, np.ndarray]:
    """(base rates in each item's language, base rates over all). Languages lean on the whole by ten judgements."""
    # Half a judgement for each label, so that none has a base rate of 0 and a logarithm of -inf.
    overall_C = (count_IC.sum(0) + 0.5) / (count_IC.sum() + 0.5 * count_IC.shape[1])
    by_GC = np.zeros((languages, count_IC.shape[1]))
    np.add.at(by_GC, language_I, count_IC)
    # A language with few judgements keeps near the base rates over all.
    by_GC = (by_GC + 10 * overall_C[None]) / (by_GC.sum(1, keepdims=True) + 10)
    return by_GC[language_I].astype(np.float32), overall_C.astype(np.float32)


def _model(cfg: ItemConfig, width: int, labels: int) -> Selector:
    return Selector(SelectorConfig(d_z=width, actions=labels, width=cfg.width, p_enters=()))


def _fit(
    model: Selector,
    cfg: ItemConfig,
    x: np.ndarray,
    base: np.ndarray,
    fit: np.ndarray,
    held: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, PyTree, int]:
    """(log p by each of F fits [F, I, C], weights of the last, their number of steps)."""
    x, base = jnp.asarray(x), jnp.asarray(base)
    adam = optax.adamw(cfg.lr, weight_decay=cfg.weight_decay)
    log_p = lambda params: jax.nn.log_softmax(model.apply({"params": params}, x, base=base))
    loss = lambda params, count: -jnp.sum(log_p(params) * count) / jnp.maximum(count.sum(), 1.0)

    def step(carry: tuple, count: Array) -> tuple:
        params, state = carry
        moved, state = adam.update(jax.grad(loss)(params, count), state, params)
        return optax.apply_updates(params, moved), state

    def start(key: Array) -> tuple:
        params = model.init(key, x[:1], base=base[:1])["params"]
        return params, adam.init(params)

    @jax.jit
    def course(key: Array, count: Array, held: Array) -> Array:
        """The held-out loss (a sum) before each step."""
        body = lambda carry, _: (step(carry, count), -jnp.sum(log_p(carry[0]) * held))
        return jax.lax.scan(body, start(key), None, length=cfg.most_steps + 1)[1]

    @jax.jit
    def train(key: Array, count: Array, steps: Array) -> tuple[PyTree, Array]:
        carry = jax.lax.fori_loop(0, steps, lambda _, carry: step(carry, count), start(key))
        return carry[0], log_p(carry[0])

    # A key for each fit, the same in `course` and `train`: the trained weights are those whose loss was watched.
    keys = jax.random.split(jax.random.key(seed), len(fit))
    # The number of steps is chosen on the sum over the parts and then used for the fit on everything.
    held_out = sum(course(*each) for each in zip(keys[:-1], fit[:-1], held[:-1], strict=True))
    steps = int(np.argmin(held_out))
    fits = [train(key, count, steps) for key, count in zip(keys, fit, strict=True)]
    return np.stack([out for _, out in fits]), fits[-1][0], steps


def lora_log_p(
    view: ItemView,
    examples: Cards,
    k: int,
    asked: Cards,
    item: ItemConfig,
    cfg: LoraConfig,
    seed: int,
) -> Float[np.ndarray, "U S C"]:
    """Log p of labels by the pooled model with a LoRA of each person's own: the baseline that p is held against.

    Args:
      view: the fitted pooled model and what it sees of the items.
      examples: judgements of each person.
      k: how many of them each LoRA is fitted to.
      asked: judgements whose labels are told.
      item: config of the pooled model.
      cfg: of the LoRA and its fit.
      seed: of its weights.
    """
    width, labels = view.x_IW.shape[1], view.log_p_IC.shape[1]
    model = _model(item, width, labels)
    key = jax.random.key(seed)
    sizes = {"into": (width, item.width), "out": (item.width, labels)}
    down = {
        name: jax.random.normal(jax.random.fold_in(key, i), (size[0], cfg.rank)) / size[0] ** 0.5
        for i, (name, size) in enumerate(sizes.items())
    }
    # `b` is zero, so everybody begins at the pooled model.
    none = {name: (a, jnp.zeros((cfg.rank, sizes[name][1]))) for name, a in down.items()}
    adam = optax.adam(optax.cosine_decay_schedule(cfg.lr, cfg.steps))
    x, base = jnp.asarray(view.x_IW), jnp.asarray(view.base_IC)

    def log_p(lora: PyTree, item_S: Array) -> Array:
        params = dict(view.params)
        for name, (a, b) in lora.items():
            params[name] = {**params[name], "kernel": params[name]["kernel"] + a @ b}
        return jax.nn.log_softmax(model.apply({"params": params}, x[item_S], base=base[item_S]))

    def loss(lora: PyTree, item_S: Array, label_S: Array, mask_S: Array) -> Array:
        picked = jnp.take_along_axis(log_p(lora, item_S), label_S[:, None], 1)[:, 0]
        # `a` is pulled to its random start and not to zero: at zero, `b` would have no gradient.
        size = sum(jnp.sum(b**2) + jnp.sum((a - down[name]) ** 2) for name, (a, b) in lora.items())
        return -jnp.sum(picked * mask_S) + 0.5 * cfg.decay * size

    def one(item_S: Array, label_S: Array, mask_S: Array, asked_S: Array) -> Array:
        def step(carry: tuple, _: None) -> tuple:
            moved, state = adam.update(jax.grad(loss)(carry[0], item_S, label_S, mask_S), carry[1])
            return (optax.apply_updates(carry[0], moved), state), None

        (lora, _), _ = jax.lax.scan(step, (none, adam.init(none)), None, length=cfg.steps)
        return log_p(lora, asked_S)

    fit = jax.jit(jax.vmap(one))
    return np.asarray(fit(examples.item_US, examples.label_US, examples.first(k), asked.item_US))
