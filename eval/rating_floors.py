"""What a rating predictor must beat: the mean, damped biases, and a plain biased matrix factorisation.

The last two are the field's usual marks on MovieLens-100K, 5-fold: Surprise's BaselineOnly (.944) and SVD (.9355), with
its defaults: 100 factors, 20 epochs of plain SGD over one rating after the other, rate .005, L2 .02, all trained.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrec.data.histories import Interactions
from jaxrec.recommenders.rating_context import biases


def mean_floor(train: Interactions, test: Interactions) -> Float[np.ndarray, " T"]:
    """The mean training rating for every pair."""
    return np.full(len(test), train.rating_T.mean())


def bias_floor(train: Interactions, test: Interactions) -> Float[np.ndarray, " T"]:
    """mean + damped bias of the person + damped bias of the item."""
    found = biases(train.user_T, train.item_T, train.rating_T, train.n_users, train.n_items)
    return found(test.user_T, test.item_T)


def svd_floor(
    train: Interactions, test: Interactions, seed: int = 0, width: int = 100, epochs: int = 20
) -> Float[np.ndarray, " T"]:
    """mean + biases + p . q by stochastic gradient descent, a rating at a time (Funk 2006; Surprise's SVD)."""
    rng = np.random.default_rng(seed)
    draw = lambda rows: rng.normal(0, 0.1, (rows, width)).astype(np.float32)
    # A last row of each table takes what pads a round.
    p_UE, q_IE = draw(train.n_users + 1), draw(train.n_items + 1)
    state = jnp.pad(p_UE, ((0, 0), (0, 1))), jnp.pad(q_IE, ((0, 0), (0, 1)))
    mean = float(train.rating_T.mean())
    for _ in range(epochs):
        order = rng.permutation(len(train))
        user_T, item_T = train.user_T[order].astype(np.int32), train.item_T[order].astype(np.int32)
        at_RX = rounds(user_T, item_T)
        fill = lambda x_T, last, at_RX=at_RX: np.append(x_T, last).astype(x_T.dtype)[at_RX]
        residual_T = (train.rating_T[order] - mean).astype(np.float32)
        parts = fill(user_T, train.n_users), fill(item_T, train.n_items), fill(residual_T, 0)
        state = _sgd_epoch(state, *parts)
    p_UW, q_IW = map(np.asarray, state)
    p_TW, q_TW = p_UW[test.user_T], q_IW[test.item_T]
    return mean + p_TW[:, -1] + q_TW[:, -1] + np.einsum("te,te->t", p_TW[:, :-1], q_TW[:, :-1])


def rounds(user_T: np.ndarray, item_T: np.ndarray, width: int = 64) -> np.ndarray:
    """Ratings, by index, in rounds of at most `width` that share no person and no item; T pads them.

    One rating after the other is what SGD says, but those of a round do not read what the others write. As a rating
    always comes in a later round than those before it of its person or item, the result is that of their order.
    """
    free_U = np.zeros(user_T.max() + 1, int).tolist()
    free_I = np.zeros(item_T.max() + 1, int).tolist()
    size: list[int] = []
    round_T = np.empty(len(user_T), int)
    for n, (u, i) in enumerate(zip(user_T.tolist(), item_T.tolist(), strict=True)):
        at = max(free_U[u], free_I[i])
        while at < len(size) and size[at] == width:
            at += 1
        if at == len(size):
            size.append(0)
        size[at] += 1
        free_U[u] = free_I[i] = at + 1
        round_T[n] = at
    order = np.argsort(round_T, kind="stable")
    count_R = np.array(size)
    place_T = np.arange(len(order)) - np.repeat(np.cumsum(count_R) - count_R, count_R)
    # A number of rounds that is the same from epoch to epoch, so that one program serves all.
    at_RX = np.full((-(-len(size) // 512) * 512, width), len(user_T))
    at_RX[round_T[order], place_T] = order
    return at_RX


@functools.partial(jax.jit, donate_argnums=0)
def _sgd_epoch(state, user_RX, item_RX, rating_RX, rate: float = 0.005, decay: float = 0.02):
    def one(state, part):
        (p_UW, q_IW), (user_X, item_X, rating_X) = state, part
        p_XW, q_XW = p_UW[user_X], q_IW[item_X]
        dot_X = jnp.einsum("xe,xe->x", p_XW[:, :-1], q_XW[:, :-1])
        error_X1 = (rating_X - p_XW[:, -1] - q_XW[:, -1] - dot_X)[:, None]
        ones_X1 = jnp.ones_like(error_X1)  # the bias meets a factor of 1
        by_p = jnp.concatenate([q_XW[:, :-1], ones_X1], 1)
        by_q = jnp.concatenate([p_XW[:, :-1], ones_X1], 1)
        p_UW = p_UW.at[user_X].set(p_XW + rate * (error_X1 * by_p - decay * p_XW))
        return (p_UW, q_IW.at[item_X].set(q_XW + rate * (error_X1 * by_q - decay * q_XW))), None

    return jax.lax.scan(one, state, (user_RX, item_RX, rating_RX))[0]
