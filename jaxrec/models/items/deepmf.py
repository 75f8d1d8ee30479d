"""Floor 3: DeepMF, a rating from a person's and an item's vector through a small MLP, and what may stand beside it.

As specified: two tables of 64 numbers a row, 128 -> 64 -> 32 -> 1 with ReLU, and 1 + 4 sigmoid(.) as the rating. By
option: biases (a last column of every table), a dot product beside the MLP (NeuMF's generalised matrix factorisation;
He 2017), side features of people and items, and implicit terms on both sides: who a person is by what they rated
(SVD++; Koren 2008), and what an item is by who rated it.

A side is a sum of vectors of one space, so a person nobody knows is a vector too: `person` takes the free row as an
argument, and fold-in looks for that row alone.

    users/table [U W]   items/table [I W]          W = width, one more with biases
    history/table [I W] audience/table [U W]       implicit terms
    user_features/table, item_features/table       one row a feature value
    head/...                                        MLP, dot, mean
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import flax.struct as struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrec import mesh as meshes
from jaxrec import tables
from jaxrec.config import RunError
from jaxrec.nn.layers import Dense

Tree = Any
MATRIX = 1 << 29  # cells of people x items (a byte each) up to which implicit terms are offered


class DeepMFError(RunError, ValueError):
    """A DeepMF that cannot be built as configured, or is asked about what it does not know."""


@dataclasses.dataclass(frozen=True)
class DeepMFShape:
    """What DeepMF is made of. The defaults are the specification's model."""

    width: int = 64
    hidden: tuple[int, ...] = (64, 32)  # of the MLP; () leaves it out
    low: float = 1.0  # the range of ratings
    high: float = 5.0
    output: Literal["sigmoid", "linear"] = "sigmoid"  # linear: clipped to the range when predicting
    biases: bool = False
    dot: bool = False
    features: bool = False
    implicit: Literal["none", "user", "both"] = "none"
    user_windows: tuple[
        float, ...
    ] = ()  # seconds: context of the person's other ratings near in time
    item_windows: tuple[float, ...] = ()  # and of the item's
    dropout: float = 0.0  # of the MLP's input
    init_std: float = 0.05  # of the tables

    def __post_init__(self):
        if not self.hidden and not self.dot:
            raise DeepMFError(
                "a DeepMF without `hidden` layers and without `dot` has nothing that mixes person and item"
            )
        if not self.low < self.high or self.width < 1 or not 0 <= self.dropout < 1:
            raise DeepMFError(
                "DeepMF needs low < high, a width of at least 1 and a dropout in [0, 1)"
            )

    @property
    def context(self) -> int:
        """Numbers that tell of the ratings around a rating."""
        return len(self.user_windows) + len(self.item_windows)

    @property
    def row(self) -> int:
        """Numbers in a row of a table."""
        return self.width + self.biases


@struct.dataclass
class Ratings:
    """A batch of ratings. Item -1: padding, of no weight."""

    user_B: Any
    item_B: Any
    rating_B: Any
    context_BK: Any = None  # what the ratings around it say, where the shape has windows


@struct.dataclass
class SideFacts:
    """What is known of people and items besides their ratings' values; absent where an option does not ask for it.

    features: numbers of feature values, -1 where there are fewer. taken: 1 where a person rated an item (in training).
    """

    user_features_UF: Any = None
    item_features_IF: Any = None
    taken_UI: Any = None
    takers_IU: Any = None


class RatingHead(nn.Module):
    """Two vectors -> a rating."""

    shape: DeepMFShape

    @nn.compact
    def __call__(
        self,
        user_BW: Float[Array, "*b W"],
        item_BW: Float[Array, "*b W"],
        context_BK: Float[Array, "*b K"] | None = None,
        keep_BD: Float[Array, "*b D"] | None = None,
    ) -> Float[Array, "*b"]:
        """The rating of a person for an item, before it is clipped.

        Args:
          user_BW, item_BW: the two sides.
          context_BK: what else is known of the moment, as numbers.
          keep_BD: the mask of dropout over the MLP's input (zeros, or 1 / (1 - dropout)).
        """
        shape = self.shape
        user, item = user_BW[..., : shape.width], item_BW[..., : shape.width]
        out = self.param("mean", nn.initializers.zeros_init(), (1,), jnp.float32).reshape(
            (1,) * (user.ndim - 1)
        )
        # A bias for each person and item is the last number of their row.
        if shape.biases:
            out = out + user_BW[..., -1] + item_BW[..., -1]
        if shape.context:
            weight = self.param(
                "context", nn.initializers.zeros_init(), (shape.context,), jnp.float32
            )
            # Without a context nothing is added: its numbers are mean residuals, of which 0 says nothing.
            if context_BK is not None:
                out = out + context_BK @ weight
        if shape.dot:
            scale = self.param("dot", nn.initializers.ones_init(), (shape.width,), jnp.float32)
            out = out + jnp.einsum("...e,e,...e->...", user, scale, item)
        if shape.hidden:
            x = jnp.concatenate([user, item], -1)
            # The mask comes from outside, drawn by each row's own key, so microbatches change nothing.
            x = x if keep_BD is None else x * keep_BD
            for n, size in enumerate(shape.hidden):
                x = jax.nn.relu(Dense(size, True, (2 / x.shape[-1]) ** 0.5, name=f"mlp_{n}")(x))
                x = meshes.put(x, "rows")
            out = out + Dense(1, True, (1 / x.shape[-1]) ** 0.5, name="mlp_out")(x)[..., 0]
        if shape.output == "sigmoid":
            return shape.low + (shape.high - shape.low) * jax.nn.sigmoid(out)
        return out


def init(
    key: Array, shape: DeepMFShape, n_users: int, n_items: int, *, mean: float | None = None,
    user_values: int = 0, item_values: int = 0,
) -> Tree:  # fmt: skip
    """Fresh parameters.

    Args:
      key: random.
      shape: sizes, and which options there are.
      n_users, n_items: rows of the two tables.
      mean: of the training ratings, where the output begins.
      user_values, item_values: how many values the features of people and of items take.
    """
    keys = jax.random.split(key, 7)

    def table(key: Array, rows: int, std: float = shape.init_std) -> dict[str, Array]:
        # The bias is one more column, beginning at 0, so a row is gathered and updated as a whole.
        values = std * jax.random.normal(key, (rows, shape.width))
        return {"table": jnp.pad(values, ((0, 0), (0, int(shape.biases))))}

    zero = jnp.zeros((1, shape.row))
    head = RatingHead(shape).init(keys[0], zero, zero)["params"]
    if mean is not None:
        head = {**head, "mean": jnp.full((1,), start_of(shape, mean), jnp.float32)}
    params = {"users": table(keys[1], n_users), "items": table(keys[2], n_items), "head": head}
    if shape.features:
        params["user_features"] = table(keys[3], user_values, 0.1 * shape.init_std)
        params["item_features"] = table(keys[4], item_values, 0.1 * shape.init_std)
    if shape.implicit != "none":
        params["history"] = table(keys[5], n_items, 0.1 * shape.init_std)
    if shape.implicit == "both":
        params["audience"] = table(keys[6], n_users, 0.1 * shape.init_std)
    return params


def start_of(shape: DeepMFShape, mean: float) -> float:
    """The output before the sigmoid (or the linear output) that gives the rating `mean`."""
    if shape.output == "linear":
        return mean
    # Kept off the ends of the range, where the inverse sigmoid is infinite.
    part = min(max((mean - shape.low) / (shape.high - shape.low), 1e-3), 1 - 1e-3)
    return math.log(part / (1 - part))


def person(
    params: Tree,
    row_BW: Float[Array, "B W"],
    features_BF: Int[Array, "B F"] | None = None,
    taken_BI: Array | None = None,
    but_B: Int[Array, " B"] | None = None,
) -> Float[Array, "B W"]:
    """A person's side: their own row, what their features say, and what their having rated certain items says (SVD++,
    Koren 2008).

    Args:
      params: all tables.
      row_BW: the person's own row.
      features_BF: numbers of the person's feature values, -1 where there are fewer.
      taken_BI: 1 where the person rated an item (in training).
      but_B: an item that is left out of the last sum: the one to be predicted, which no prediction may know.
    """
    if features_BF is not None:
        row_BW = row_BW + tables.lookup(params["user_features"]["table"], features_BF).sum(1)
    if taken_BI is not None:
        row_BW = row_BW + _sum_of(params["history"]["table"], taken_BI, but_B)
    return row_BW


def item(
    params: Tree,
    row_BW: Float[Array, "B W"],
    features_BF: Int[Array, "B F"] | None = None,
    takers_BU: Array | None = None,
    but_B: Int[Array, " B"] | None = None,
) -> Float[Array, "B W"]:
    """An item's side, as `person` is a person's.

    Args:
      params: all tables.
      row_BW: the item's own row.
      features_BF: numbers of the item's feature values.
      takers_BU: 1 where a person rated the item.
      but_B: the person whose rating is predicted.
    """
    if features_BF is not None:
        row_BW = row_BW + tables.lookup(params["item_features"]["table"], features_BF).sum(1)
    if takers_BU is not None:
        row_BW = row_BW + _sum_of(params["audience"]["table"], takers_BU, but_B)
    return row_BW


def _sum_of(
    table_IW: Float[Array, "I W"], held_BI: Array, but_B: Array | None
) -> Float[Array, "B W"]:
    """|N|^-1/2 times the sum of the rows in N (Koren 2008, equation 15), N without `but_B`."""
    held_BI = held_BI.astype(table_IW.dtype)
    total_BW, count_B = held_BI @ table_IW, held_BI.sum(1)
    if but_B is not None:
        # Taken off the full sum: a mask of its own for every rating would be another [B, I] array.
        own_B = jnp.take_along_axis(held_BI, jnp.maximum(but_B, 0)[:, None], 1)[:, 0] * (but_B >= 0)
        total_BW = total_BW - own_B[:, None] * tables.lookup(table_IW, but_B)
        count_B = count_B - own_B
    # The maximum is for those who rated nothing else: 0 / 1.
    return total_BW / jnp.sqrt(jnp.maximum(count_B, 1))[:, None]


def sides(
    shape: DeepMFShape,
    params: Tree,
    known: SideFacts | None,
    user_B: Int[Array, " B"],
    item_B: Int[Array, " B"],
) -> tuple[Array, Array, Array, Array]:
    """(person [B W], item [B W], both tables' own rows) of each rating; neither side knows of the rating itself.

    Args:
      shape: sizes, and which options there are.
      params: all tables.
      known: features, and who rated what.
      user_B, item_B: whose ratings, and of what.
    """
    own_BW = tables.lookup(params["users"]["table"], user_B)
    its_BW = tables.lookup(params["items"]["table"], item_B)
    take = lambda rows, ids: None if rows is None else rows[jnp.maximum(ids, 0)]
    known = known or SideFacts()
    # Each side leaves out the other: that somebody rated this very item is what a prediction may not know.
    user_BW = person(
        params, own_BW, take(known.user_features_UF, user_B), take(known.taken_UI, user_B), item_B
    )
    item_BW = item(
        params, its_BW, take(known.item_features_IF, item_B), take(known.takers_IU, item_B), user_B
    )
    return user_BW, item_BW, own_BW, its_BW


def all_items(params: Tree, known: SideFacts | None) -> Float[Array, "I W"]:
    """Every item's side, as predictions for new pairs read it."""
    known = known or SideFacts()
    return item(params, params["items"]["table"], known.item_features_IF, known.takers_IU)


def halves(
    shape: DeepMFShape, head: Tree, item_BIW: Float[Array, "#B I W"]
) -> Float[Array, "#B I F"] | None:
    """The items' part of the MLP's first layer, which no person changes; None without an MLP."""
    if not shape.hidden:
        return None
    return item_BIW[..., : shape.width] @ head["mlp_0"]["kernel"][shape.width :]


def grid(
    shape: DeepMFShape,
    head: Tree,
    user_BW: Float[Array, "B W"],
    item_BIW: Float[Array, "#B I W"],
    half_BIF: Float[Array, "#B I F"] | None,
) -> Float[Array, "B I"]:
    """The rating of every person for every item of theirs (or all of theirs: a leading 1), before clipping.

    What `RatingHead` gives without context, but the first matrix meets people and items apart, not once for every
    pair.

    Args:
      shape: sizes, and which options there are.
      head: weights of the `RatingHead`.
      user_BW: the people.
      item_BIW: their items.
      half_BIF: what the first matrix makes of the items, from `halves`.
    """
    user, items = user_BW[:, : shape.width], item_BIW[..., : shape.width]
    out_BI = head["mean"][None]
    if shape.biases:
        out_BI = out_BI + user_BW[:, -1:] + item_BIW[..., -1]
    if shape.dot:
        scaled = user * head["dot"][None]
        # Items that all people share are a matrix product; each person's own are a batched one.
        if len(items) == 1:
            out_BI = out_BI + scaled @ items[0].T
        else:
            out_BI = out_BI + jnp.einsum("be,bie->bi", scaled, items)
    if half_BIF is not None:
        first = head["mlp_0"]
        # (user, item) W = user W_1 + item W_2: B + I products with the first matrix instead of B I.
        mine = user @ first["kernel"][: shape.width] + first["bias"][None]
        x = jax.nn.relu(mine[:, None] + half_BIF)
        for n in range(1, len(shape.hidden)):
            layer = head[f"mlp_{n}"]
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None, None])
        out_BI = out_BI + (x @ head["mlp_out"]["kernel"])[..., 0] + head["mlp_out"]["bias"][None]
    if shape.output == "sigmoid":
        return shape.low + (shape.high - shape.low) * jax.nn.sigmoid(out_BI)
    return out_BI
