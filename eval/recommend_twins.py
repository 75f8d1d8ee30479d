"""One product under two names: items of two shops that the same people have, and the questions that they give away.

A pair of public shops may list one product twice. Whoever has it in the shop where they are known is then asked for it
in the shop where they are cold, and a model that remembers who takes both answers without taste. Such rows are found
by their people alone, for nothing else is known of the items: a pair of items in two shops is *twins* where of all who
have either at least four in five have both, and three people at least. All events count, those that are asked for too,
so that rather too many rows are set aside than too few.
"""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Int

from jaxrec.data.histories import Histories, Holdout

LIKENESS = 0.8  # Jaccard's, of the people who have the one and the other
SHARED = 3  # people, at least


def twins(
    train: Histories, held: tuple[Holdout, ...], shop_I: Int[np.ndarray, " I"]
) -> Int[np.ndarray, "N 2"]:
    """Pairs of item numbers of different shops, the smaller number first.

    train: what is learned from. held: what is asked for, by the same people. shop_I: the shop of each item.
    """
    user = [train.user_B[train.row_T], *(part.histories.user_B for part in held)]
    item = [train.item_T, *(part.target_B for part in held)]
    user_T, item_T = np.concatenate(user), np.concatenate(item)
    shape = (train.n_users, train.n_items)
    taken_UI = sp.csr_matrix((np.ones(len(user_T)), (user_T, item_T)), shape=shape)
    taken_UI.data[:] = 1  # once a person
    count_I = np.asarray(taken_UI.sum(0)).ravel()
    pairs = [np.zeros((0, 2), np.int64)]
    for shop in np.unique(shop_I):
        # Shop by shop: all items by all items would be a matrix as large as popular items make it.
        own, others = np.flatnonzero(shop_I == shop), np.flatnonzero(shop_I > shop)
        both = (taken_UI[:, own].T @ taken_UI[:, others]).tocoo()
        first, second = own[both.row], others[both.col]
        alike = both.data / (count_I[first] + count_I[second] - both.data)
        kept = (alike >= LIKENESS) & (both.data >= SHARED)
        pairs.append(np.sort(np.stack([first[kept], second[kept]], 1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def touched(asked: Holdout, pairs: Int[np.ndarray, "N 2"]) -> Bool[np.ndarray, " B"]:
    """Which rows ask for a twin of something that their history holds."""
    n_items = asked.histories.n_items
    first, second = pairs.T
    ends = (np.concatenate([first, second]), np.concatenate([second, first]))
    twin_II = sp.csr_matrix((np.ones(2 * len(pairs)), ends), shape=(n_items, n_items))
    # Of each event its twins; the event counts where the row's target is one of them.
    row_T, item_T = asked.histories.row_T, asked.histories.item_T
    hit_T = np.asarray(twin_II[item_T, asked.target_B[row_T]]).ravel() > 0
    return np.bincount(row_T[hit_T], minlength=len(asked)) > 0
