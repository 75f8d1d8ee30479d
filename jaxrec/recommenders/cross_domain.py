"""Floor 4: one profile over several shops, and what its owner would take in any of them, those never visited too.

A person's profile has a part for each shop: the vector that implicit matrix factorisation gives them there. The part of
a shop that they never used is imagined from its *members*, the people with events in it and elsewhere. Attention to a
member is

    a = max(0, cosine of the profiles' other parts) ^ sharpness  +  overlap * likeness by items that both have elsewhere

and the answer mixes two that attention gives: the members' own items in the shop (which remembers rare things), and the
items that the members' profiles there point to (which generalises). It is an ensemble: a part `mapped` of the answer is
that of a linear map from the other shops (EMCDR, `linear_mapping`), which errs elsewhere. What somebody did in the shop
itself counts as their own part, the more the more it is. `sharpness`, `overlap` and `blend` are chosen for each shop on
validation.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from jaxrec import checkpoint, config
from jaxrec.data.histories import Histories, Holdout
from jaxrec.recommenders.implicit_als import ALSConfig, Factors, factorise
from jaxrec.recommenders.linear_mapping import MappedSpaces
from jaxrec.recommenders.recommender import NotFitted, Recommender, must_learn

CANDIDATES = 1000  # validation places a target as if among so many items, drawn from its shop
ASKED = 512  # people scored at once


@dataclasses.dataclass(frozen=True)
class CrossDomainConfig:
    """Factorisation of each shop, and what is tried on validation (without it the first of each stands)."""

    als: ALSConfig = ALSConfig()
    sharpness: tuple[float, ...] = (4.0, 2.0, 8.0)
    overlap: tuple[float, ...] = (5.0, 20.0)
    # Of the answer by profiles; the rest of attention's is by items.
    blend: tuple[float, ...] = (0.6, 0.4, 0.8, 0.9, 1.0)
    mapped: float = 0.2  # of the linear maps' answer, beside attention's
    penalty: float = 100.0  # of the maps, times the mean square of the vectors
    popular: float = 0.2  # of popularity, in every answer


@dataclasses.dataclass(frozen=True)
class Attending:
    """What was chosen for one shop."""

    sharpness: float
    overlap: float
    blend: float


class CrossDomain(Recommender):
    """Made with the shop of each item; without it all items are of one shop."""

    kind = "cross_domain"

    def __init__(
        self,
        config: CrossDomainConfig = CrossDomainConfig(),
        shop_I: Int[np.ndarray, " I"] | None = None,
    ):
        self.config, self.shop_I = config, shop_I
        self.shops: list[_Shop] = []
        self.facts: dict[str, Any] = {}

    def fit(
        self, train: Histories, valid: Holdout | None = None, out: str | Path | None = None
    ) -> "CrossDomain":
        """Factorises each shop; chooses by the targets of `valid`, each among the items of its shop."""
        must_learn(train)
        cfg = self.config
        self._build(train)
        first = Attending(cfg.sharpness[0], cfg.overlap[0], cfg.blend[0])
        self.chosen = [first] * len(self.shops)
        self.facts = {"epoch": cfg.als.rounds}
        for s in range(len(self.shops)) if valid is not None else ():
            self.chosen[s] = self._choose(s, valid)
        self.facts["chosen"] = [dataclasses.asdict(chosen) for chosen in self.chosen]
        return self

    def score(self, histories: Histories) -> Float[np.ndarray, "B I"]:
        """log P(shop) P(item | shop): a shop is as likely as its part of what the person took, plus one event."""
        out_BI = np.full((len(histories), histories.n_items), -np.inf, np.float32)
        taken = self.ownership(histories)
        visits_BS = np.stack([taken[:, shop.items].getnnz(1) for shop in self._shops()], 1)
        chance_BS = (visits_BS + 1) / (visits_BS + 1).sum(1, keepdims=True)
        for s, shop in enumerate(self.shops):
            out_BI[:, shop.items] = self.chances(histories, s) * chance_BS[:, [s]]
        return np.log(out_BI)

    def chances(self, histories: Histories, shop: int) -> Float[np.ndarray, "B W"]:
        """P(item | person, shop) for the items of one shop, in the order of their numbers."""
        self._shops()
        parts = []
        for at in range(0, len(histories), ASKED):
            some = histories.take(np.arange(at, min(at + ASKED, len(histories))))
            parts.append(self._mixture(self._evidence(some, shop), shop, self.chosen[shop]))
        return np.concatenate(parts) if parts else np.zeros((0, len(self.shops[shop].items)))

    def item_vectors(self) -> Float[np.ndarray, "I E"]:
        """Each item as the mean profile, over all shops, of who took it."""
        shops = self._shops()
        width = sum(shop.factors.item_IE.shape[1] for shop in shops)
        out = np.zeros((len(self.shop_I), width), np.float32)
        at = 0
        for shop in shops:
            e = shop.factors.item_IE.shape[1]
            people_UE = _unit(shop.factors.people(self.taken_UI[:, shop.items]))
            out[:, at : at + e] = _unit(self.taken_UI.T @ people_UE)
            at += e
        return out

    def save(self, folder: str | Path) -> None:
        """What was learned from, what was found, and the configuration in facts.json."""
        shops = self._shops()
        tree = {
            "item": self.train.item_T, "start": self.train.start_B, "user": self.train.user_B,
            "shop": self.shop_I, "factors": {str(s): x.factors.item_IE for s, x in enumerate(shops)},
        }  # fmt: skip
        facts = {"kind": self.kind, "config": config.to_dict(self.config)}
        facts |= {"people": self.train.n_users, "fit": self.facts}
        facts["chosen"] = [dataclasses.asdict(chosen) for chosen in self.chosen]
        checkpoint.save_params(folder, tree, facts)

    @classmethod
    def load(cls, folder: str | Path) -> "CrossDomain":
        """The recommender that `save` wrote. Raises CheckpointError where the folder is not whole."""
        facts = checkpoint.load_facts(folder)
        if facts.get("kind") != cls.kind:
            raise checkpoint.CheckpointError(f"{folder} holds no cross-domain recommender")
        tree = checkpoint.load_params(folder)
        shop_I = np.asarray(tree["shop"])
        found = cls(config.from_dict(CrossDomainConfig, facts["config"]), shop_I)
        arrays = [np.asarray(tree[name]) for name in ("item", "start", "user")]
        factors = {int(s): np.asarray(item_IE) for s, item_IE in tree["factors"].items()}
        found._build(Histories(*arrays, facts["people"], len(shop_I)), factors)
        found.chosen = [Attending(**chosen) for chosen in facts["chosen"]]
        found.facts = facts["fit"]
        return found

    def _build(self, train: Histories, factors: dict[int, np.ndarray] | None = None) -> None:
        self.train = train
        if self.shop_I is None:
            self.shop_I = np.zeros(train.n_items, np.int64)
        if len(self.shop_I) != train.n_items:
            raise ValueError(f"shops of {len(self.shop_I)} items, histories of {train.n_items}")
        self.taken_UI = self.ownership(train)
        self.count_I = np.asarray(self.taken_UI.sum(0)).ravel()
        self.shops = []
        for s in range(int(self.shop_I.max()) + 1):
            items = np.flatnonzero(self.shop_I == s)
            inside = self.taken_UI[:, items].getnnz(1)
            rows = np.flatnonzero((inside > 0) & (self.taken_UI.getnnz(1) > inside))
            found = _factors(self.taken_UI[:, items], self.config.als, (factors or {}).get(s))
            self.shops.append(_Shop(items, rows, found))
        self.profile_SUE = [
            _unit(shop.factors.people(self.taken_UI[:, shop.items])) for shop in self.shops
        ]
        self.maps = [self._maps(s) for s in range(len(self.shops))]

    def _maps(self, s: int) -> dict[int, MappedSpaces]:
        """Linear maps into a shop from each other one that it shares people with."""
        found, here = {}, self.shops[s]
        for other, there in enumerate(self.shops):
            both = np.intersect1d(here.members, there.members)
            if other != s and len(both):
                known_UE = there.factors.people(self.taken_UI[both][:, there.items])
                wanted_UE = here.factors.people(self.taken_UI[both][:, here.items])
                found[other] = MappedSpaces.fit(known_UE, wanted_UE, self.config.penalty)
        return found

    def _evidence(self, histories: Histories, s: int) -> "_Evidence":
        """What attention is made of, before anything is chosen."""
        shop, taken = self.shops[s], self.ownership(histories)
        like_BM = np.zeros((len(histories), len(shop.members)))
        for other, there in enumerate(self.shops):
            if other != s:
                own_BE = _unit(there.factors.people(taken[:, there.items]))
                like_BM += own_BE @ self.profile_SUE[other][shop.members].T
        away = sp.diags((self.shop_I != s) * 1.0)
        keys = self._rare(self.taken_UI[shop.members] @ away)
        overlap_BM = np.asarray((self._rare(taken @ away) @ keys.T).todense())
        mapped_BW = np.zeros((len(histories), len(shop.items)))
        for other, to_shop in self.maps[s].items():
            there = self.shops[other]
            inside_BI = taken[:, there.items]
            target_BW = _share(to_shop(there.factors.people(inside_BI)) @ shop.factors.item_IE.T)
            mapped_BW += (inside_BI.getnnz(1) > 0)[:, None] * target_BW
        self_BM = histories.user_B[:, None] == self.train.user_B[shop.members][None]
        inside_BI = taken[:, shop.items]
        return _Evidence(
            # Asked about somebody it was fitted on, attention would find them first, and copy what they took.
            like_BM=np.where(self_BM, 0, np.maximum(like_BM, 0) / max(len(self.shops) - 1, 1)),
            overlap_BM=np.where(self_BM, 0, overlap_BM),
            mapped_BW=_share(mapped_BW),
            own_BW=_share(shop.factors.people(inside_BI) @ shop.factors.item_IE.T),
            inside_B=inside_BI.getnnz(1),
        )

    def _mixture(self, known: "_Evidence", s: int, how: Attending) -> Float[np.ndarray, "B W"]:
        shop = self.shops[s]
        popular_W = self.count_I[shop.items] + 1e-3
        popular_W = popular_W / popular_W.sum()
        attention_BM = known.like_BM**how.sharpness + how.overlap * known.overlap_BM
        total_B1 = attention_BM.sum(1, keepdims=True)
        speaks_B1 = total_B1 > 1e-12  # somebody is like this person elsewhere
        attention_BM = attention_BM / np.maximum(total_B1, 1e-12)
        members_MI = self.taken_UI[shop.members][:, shop.items]
        votes_BW = _share(np.asarray((members_MI.T @ attention_BM.T).T))
        imagined_BE = attention_BM @ self.profile_SUE[s][shop.members]
        points_BW = _share(imagined_BE @ shop.factors.item_IE.T)
        elsewhere_BW = (1 - how.blend) * votes_BW + how.blend * points_BW
        if self.maps[s]:
            mapped = self.config.mapped
            elsewhere_BW = (1 - mapped) * elsewhere_BW + mapped * known.mapped_BW
        own_B1 = known.inside_B[:, None]
        weight_B1 = own_B1 / np.maximum(own_B1 + speaks_B1, 1)  # of what they did in this shop
        knows_B1 = speaks_B1 | (own_B1 > 0)
        answer_BW = weight_B1 * known.own_BW + (1 - weight_B1) * elsewhere_BW
        answer_BW = np.where(knows_B1, answer_BW, popular_W[None])
        return (1 - self.config.popular) * answer_BW + self.config.popular * popular_W[None]

    def _choose(self, s: int, valid: Holdout) -> Attending:
        """The best of the grid by the mean reciprocal place of the validation targets of this shop."""
        shop, cfg = self.shops[s], self.config
        rows = np.flatnonzero(self.shop_I[valid.target_B] == s)
        if not len(rows):
            return self.chosen[s]
        _, first, person_B = np.unique(
            valid.histories.user_B[rows], return_index=True, return_inverse=True
        )
        if (valid.histories.user_B[rows] < 0).any():
            first, person_B = np.arange(len(rows)), np.arange(len(rows))
        asked = valid.histories.take(rows[first])
        # The evidence does not depend on what is chosen: it is made once for the whole grid.
        known, seen = self._evidence(asked, s), self.ownership(asked)[:, shop.items].toarray() > 0
        place_B = np.searchsorted(shop.items, valid.target_B[rows])
        best = (-1.0, self.chosen[s])
        for values in itertools.product(cfg.sharpness, cfg.overlap, cfg.blend):
            chances_BW = np.where(seen, -1.0, self._mixture(known, s, Attending(*values)))
            own_B = chances_BW[person_B, place_B]
            before_B = np.array(
                [(chances_BW[p] >= own).sum() - 1 for p, own in zip(person_B, own_B, strict=True)]
            )
            share = (CANDIDATES - 1) / max(len(shop.items) - 1, 1)
            value = float((1 / (1 + np.maximum(before_B, 0) * min(share, 1.0))).mean())
            if value > best[0]:
                best = (value, Attending(*values))
        self.facts[f"valid_{s}"] = best[0]
        return best[1]

    def _rare(self, taken: Any) -> Any:
        """Rows of about length one; an item that two have counts as the square root of its rarity."""
        many = np.maximum(np.asarray(taken.sum(1)).ravel(), 1)
        return sp.diags(many**-0.5) @ taken @ sp.diags(np.maximum(self.count_I, 1) ** -0.25)

    def ownership(self, histories: Histories) -> Any:
        """Who has what, once each, as a sparse matrix of ones."""
        shape = (len(histories), histories.n_items)
        ones = np.ones(len(histories.item_T))
        found = sp.csr_matrix((ones, (histories.row_T, histories.item_T)), shape)
        # Repeated cells are added up by the sparse matrix; who has an item twice has it.
        found.data[:] = 1
        return found

    def _shops(self) -> list["_Shop"]:
        if not self.shops:
            raise NotFitted("the cross-domain model knows nothing yet: fit it, or load one")
        return self.shops


@dataclasses.dataclass(frozen=True)
class _Shop:
    items: np.ndarray
    members: np.ndarray  # rows of the training histories
    factors: Factors


@dataclasses.dataclass(frozen=True)
class _Evidence:
    like_BM: np.ndarray
    overlap_BM: np.ndarray
    mapped_BW: np.ndarray
    own_BW: np.ndarray
    inside_B: np.ndarray


def _factors(taken: Any, cfg: ALSConfig, item_IE: np.ndarray | None) -> Factors:
    if item_IE is None:
        item_IE = factorise(taken, cfg).item_IE
    item_IE = np.float64(np.float32(item_IE))  # as `save` keeps them: loaded it answers the same
    gram = item_IE.T @ item_IE + cfg.decay * np.eye(item_IE.shape[1])
    return Factors(item_IE, np.linalg.inv(gram), cfg.alpha)


def _share(x: np.ndarray) -> np.ndarray:
    """Rows as probabilities: what is negative counts nothing."""
    x = np.maximum(x, 0) + 1e-12
    return x / x.sum(1, keepdims=True)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).sum(1, keepdims=True) + 1e-12)
