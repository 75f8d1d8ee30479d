"""Floor 4: what the ratings around a rating say: how far others of the person, or the item, lay from the expected.

People rate in moods, and page by page: the ratings that somebody gave within the same minutes lie on the same side of
what their mean and the items' means let expect (Koren 2009 gives every person a bias a day for it). A context is a mean
residual over a window of time, shrunk towards 0: one column for each window, of the person's ratings or of the item's.
It is made of training ratings alone; a training rating's own residual is left out of its context.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

SHRINK = 4.0  # ratings of residual 0 that every window is taken to hold besides
DAMPING = (
    10.0,
    15.0,
)  # of the items' and of the people's biases; Surprise's BaselineOnly has these


@dataclasses.dataclass(frozen=True)
class Biases:
    """mean + user + item, each bias shrunk: the least that a rating predictor knows."""

    mean: float
    user_U: np.ndarray
    item_I: np.ndarray

    def __call__(
        self, user_T: Int[np.ndarray, " T"], item_T: Int[np.ndarray, " T"]
    ) -> Float[np.ndarray, " T"]:
        """What is expected of each pair."""
        return self.mean + self.user_U[user_T] + self.item_I[item_T]


def biases(
    user_T: Int[np.ndarray, " T"],
    item_T: Int[np.ndarray, " T"],
    rating_T: Float[np.ndarray, " T"],
    n_users: int,
    n_items: int,
    rounds: int = 10,
) -> Biases:
    """Alternating damped means (Koren 2010, section 2.1), as Surprise's BaselineOnly fits them.

    user_T, item_T: numbers of who rated what. rating_T: on the scale of the data set. n_users, n_items: how many of
    each there are. rounds: how often both sides are fitted in turn.
    """
    rating_T = rating_T.astype(np.float64)
    mean, user_U, item_I = float(rating_T.mean()), np.zeros(n_users), np.zeros(n_items)
    count_I = np.bincount(item_T, minlength=n_items) + DAMPING[0]
    count_U = np.bincount(user_T, minlength=n_users) + DAMPING[1]
    for _ in range(rounds):
        item_I = np.bincount(item_T, rating_T - mean - user_U[user_T], n_items) / count_I
        user_U = np.bincount(user_T, rating_T - mean - item_I[item_T], n_users) / count_U
    return Biases(mean, user_U, item_I)


class Windows:
    """Residuals of each row (a person, or an item) by time, summed over any window in two look-ups.

    time_T: Unix seconds.
    """

    def __init__(self, row_T: np.ndarray, time_T: np.ndarray, residual_T: np.ndarray):
        order = np.lexsort((time_T, row_T))
        self.first, self.span = int(time_T.min()), int(np.ptp(time_T)) + 1
        self.key_T = self._key(row_T[order], time_T[order])
        self.sum_T = np.concatenate([[0.0], np.cumsum(residual_T[order])])

    def _key(self, row: np.ndarray, time: np.ndarray) -> np.ndarray:
        # Rows lie apart by three spans, so that a clipped window never reaches into another row.
        time = np.clip(time - self.first, -self.span, 2 * self.span - 1)
        return row.astype(np.int64) * (4 * self.span) + self.span + time.astype(np.int64)

    def __call__(
        self, row_B: np.ndarray, time_B: np.ndarray, seconds: float, own_B: np.ndarray | None = None
    ) -> Float[np.ndarray, " B"]:
        """The shrunk mean of the residuals within `seconds` on either side.

        row_B: the person or item asked about. time_B: the moment, Unix seconds. own_B: residuals of the rows
        themselves, to be left out; None where they are not among those that the windows were made of.
        """
        reach = int(min(seconds, 1 << 40))  # `_key` keeps it within the row
        low = np.searchsorted(self.key_T, self._key(row_B, time_B - reach), "left")
        high = np.searchsorted(self.key_T, self._key(row_B, time_B + reach), "right")
        total, count = self.sum_T[high] - self.sum_T[low], high - low
        if own_B is not None:
            total, count = total - own_B, count - 1
        return (total / (count + SHRINK)).astype(np.float32)


class RatingContext:
    """context(user_B, item_B, time_B) -> [B, K]: first the person's windows, then the item's.

    user_T, item_T: numbers of who rated what. rating_T: on the scale of the data set. time_T: Unix seconds.
    n_users, n_items: how many of each there are. user_windows, item_windows: half widths in seconds, a column of
    the context each.
    """

    def __init__(
        self,
        user_T: Int[np.ndarray, " T"],
        item_T: Int[np.ndarray, " T"],
        rating_T: Float[np.ndarray, " T"],
        time_T: np.ndarray,
        n_users: int,
        n_items: int,
        user_windows: tuple[float, ...],
        item_windows: tuple[float, ...],
    ):
        self.user_windows, self.item_windows = user_windows, item_windows
        expected = biases(user_T, item_T, rating_T, n_users, n_items)
        self.residual_T = rating_T - expected(user_T, item_T)
        self.of_users = Windows(user_T, time_T, self.residual_T)
        self.of_items = Windows(item_T, time_T, self.residual_T)

    def __call__(
        self,
        user_B: np.ndarray,
        item_B: np.ndarray,
        time_B: np.ndarray,
        own_B: np.ndarray | None = None,
    ) -> Float[np.ndarray, "B K"]:
        """The context of ratings to be predicted; of the training ratings themselves with `own_B` = `residual_T`."""
        columns = [self.of_users(user_B, time_B, w, own_B) for w in self.user_windows]
        columns += [self.of_items(item_B, time_B, w, own_B) for w in self.item_windows]
        return np.stack(columns, 1) if columns else np.zeros((len(user_B), 0), np.float32)
