"""Floor 3: what a user wants of each service of a conversation, turn by turn: fitted on other dialogues, then followed.

    tracker = Tracker.fit(train_dialogues, train_schemas, known=KnownValues.of(others))
    for dialogue, turns in zip(dialogues, tracker.follow(dialogues, schemas)): ...    # a Wanted a service and user turn

Nothing but texts is read: neither the set's system acts nor its earlier states; what was wanted before is the tracker's
own reading. Many dialogues are followed abreast, turn by turn, so that a linear model is asked a few times in all.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrec.data.schema_dialogues import ANYTHING, Frame, Schema, SchemaDialogue
from jaxrec.dialogue.tracking.candidates import (
    Candidate,
    Heard,
    KnownValues,
    candidates,
    hear_turn,
    plain,
)
from jaxrec.dialogue.tracking.goals import goal_rows
from jaxrec.dialogue.tracking.spans import SpanTagger, hashed

WIDTH = 2**20


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """How the linear models are fitted."""

    goal_alpha: float = 1e-6  # weight decay
    value_alpha: float = 1e-6
    epochs: int = 5
    threshold: float = 0.5  # of a value: below it a slot stays as it is
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is wanted of one service after a user's turn. sure: probability of the goal."""

    service: str
    goal: str
    values: Mapping[str, str]
    sure: float


class Tracker:
    """Reads goals and slot values. Made by `fit`.

    tagger: finds values. goal_model, value_model: linear, over hashed features. known: values of slots. config: as
    fitted.
    """

    def __init__(
        self,
        tagger: SpanTagger,
        goal_model: Any,
        value_model: Any,
        known: KnownValues,
        config: TrackerConfig,
    ):
        self.tagger, self.known, self.config = tagger, known, config
        self._goals, self._values = goal_model, value_model

    @classmethod
    def fit(
        cls,
        dialogues: Sequence[SchemaDialogue],
        schemas: Mapping[str, Schema],
        known: KnownValues,
        config: TrackerConfig = TrackerConfig(),
    ) -> "Tracker":
        """Learns from dialogues.

        dialogues, schemas: what is learned from. known: values of *other* dialogues: of its own every value would be
        known. config: how.
        """
        turns = [turn for one in dialogues for turn in one.turns]
        tagger = SpanTagger.fit([t.text for t in turns], [t.spans for t in turns], config.seed)
        goals, values = _Rows(), _Rows()
        for told in _told(dialogues, tagger, known):
            for frame in told.frames:
                schema, before = schemas[frame.service], told.before.get(frame.service)
                for name, features in goal_rows(schema, told.heard, before.goal if before else ""):
                    goals.add(features, name == frame.goal)
                state = {k: v[0] for k, v in before.values.items()} if before else {}
                others = _others(told.before, frame.service)
                for one in candidates(schema, frame.goal, told.heard, state, others, known):
                    values.add(one.features, _is_right(one, frame))
        goal_model = goals.fit(_linear(config.goal_alpha, config))
        return cls(
            tagger, goal_model, values.fit(_linear(config.value_alpha, config)), known, config
        )

    def follow(
        self, dialogues: Sequence[SchemaDialogue], schemas: Mapping[str, Schema]
    ) -> list[list[list[Wanted]]]:
        """Of each dialogue, of each user turn, what is wanted of the services that the turn is about.

        Which services these are is told by the dialogue (`SchemaTurn.frames`), as in the set's own measure; what they
        hold is not read.
        """
        heard = _by_dialogue(dialogues, self.tagger, self.known)
        found: list[list[list[Wanted]]] = [[] for _ in dialogues]
        states: list[dict[str, Wanted]] = [{} for _ in dialogues]
        for turn in range(max(map(len, heard), default=0)):
            asked = [
                (d, h, name)
                for d, own in enumerate(heard)
                if turn < len(own)
                for h, names in [own[turn]]
                for name in names
            ]
            goals = self._read_goals(asked, states, schemas)
            values = self._read_values(asked, goals, states, schemas)
            for (d, _, name), (goal, sure), state in zip(asked, goals, values, strict=True):
                if len(found[d]) <= turn:
                    found[d].append([])
                found[d][turn].append(Wanted(name, goal, state, sure))
            for d, own in enumerate(found):
                if turn < len(own):
                    states[d] |= {one.service: one for one in own[turn]}
        return found

    # ---------------------------------------------------------------------------------- inside

    def _read_goals(self, asked, states, schemas) -> list[tuple[str, float]]:
        rows = []
        for d, heard, name in asked:
            before = states[d].get(name)
            rows.append(goal_rows(schemas[name], heard, before.goal if before else ""))
        scores = self._goals.decision_function(hashed([f for own in rows for _, f in own], WIDTH))
        found, at = [], 0
        for own in rows:
            score = scores[at : at + len(own)]
            best = int(np.argmax(score))
            share = np.exp(score - score.max())
            found.append((own[best][0], float(share[best] / share.sum())))
            at += len(own)
        return found

    def _read_values(self, asked, goals, states, schemas) -> list[dict[str, str]]:
        rows = []
        for (d, heard, name), (goal, _) in zip(asked, goals, strict=True):
            before = states[d].get(name)
            state = dict(before.values) if before else {}
            others = {
                k: v for s, one in states[d].items() if s != name for k, v in one.values.items()
            }
            rows.append((state, candidates(schemas[name], goal, heard, state, others, self.known)))
        flat = [one.features for _, own in rows for one in own]
        scores = self._values.predict_proba(hashed(flat, WIDTH))[:, 1].tolist() if flat else []
        found, at = [], 0
        for state, own in rows:
            found.append(_taken(state, own, scores[at : at + len(own)], self.config.threshold))
            at += len(own)
        return found


# ------------------------------------------------------------------------------------------ inside


class _Rows:
    """Rows of features and whether each is right; hashed in blocks, as their names take fifty times the room."""

    def __init__(self) -> None:
        self._open: list[list[str]] = []
        self._hashed: list[Any] = []
        self._right: list[bool] = []

    def add(self, features: list[str], right: bool) -> None:
        self._open.append(features)
        self._right.append(right)
        if len(self._open) == 20_000:
            self._close()

    def fit(self, model: Any) -> Any:
        from scipy.sparse import vstack

        self._close()
        return model.fit(vstack(self._hashed, "csr"), np.array(self._right))

    def _close(self) -> None:
        if self._open:
            self._hashed.append(hashed(self._open, WIDTH))
            self._open = []


@dataclasses.dataclass(frozen=True)
class _Told:
    """A user's turn in training: what was wanted before it, by the set."""

    heard: Heard
    frames: Sequence[Frame]
    before: Mapping[str, Frame]


def _told(
    dialogues: Sequence[SchemaDialogue], tagger: SpanTagger, known: KnownValues
) -> Iterator[_Told]:
    """Every user turn, with the tagger's own spans, so that training meets its mistakes."""
    for dialogue, heard in zip(dialogues, _by_dialogue(dialogues, tagger, known), strict=True):
        before: dict[str, Frame] = {}
        turns = [turn for turn in dialogue.turns if turn.is_user]
        for turn, (one, _) in zip(turns, heard, strict=True):
            yield _Told(one, turn.frames, dict(before))
            before |= {frame.service: frame for frame in turn.frames}


def _by_dialogue(
    dialogues: Sequence[SchemaDialogue], tagger: SpanTagger, known: KnownValues
) -> list[list[tuple[Heard, tuple[str, ...]]]]:
    """Of each dialogue its user turns, each with the services that it is about."""
    spans = iter(tagger.find([turn.text for one in dialogues for turn in one.turns]))
    found = []
    for dialogue in dialogues:
        own, systems = [], []
        for turn in dialogue.turns:
            values = next(spans)
            if turn.is_user:
                names = tuple(frame.service for frame in turn.frames)
                whole = known.spans(turn.text, values)
                own.append((hear_turn(turn.text, whole, systems), names))
            else:
                systems.append((turn.text, values))
        found.append(own)
    return found


def _others(before: Mapping[str, Frame], service: str) -> dict[str, str]:
    return {
        k: v[0] for name, one in before.items() if name != service for k, v in one.values.items()
    }


def _is_right(one: Candidate, frame: Frame) -> bool:
    return plain(one.value) in {plain(value) for value in frame.values.get(one.slot, ())}


def _linear(alpha: float, config: TrackerConfig) -> Any:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(
        loss="log_loss",
        alpha=alpha,
        max_iter=config.epochs,
        tol=None,
        average=True,
        random_state=config.seed,
    )


def _taken(
    state: dict[str, str], own: Sequence[Candidate], scores: Sequence[float], threshold: float
) -> dict[str, str]:
    """The state with the best candidates: a slot takes one, and a span of the turn goes to one slot."""
    state, slots, places = dict(state), set(), set()
    for i in sorted(range(len(own)), key=lambda i: -scores[i]):
        one = own[i]
        if scores[i] < threshold:
            break
        if one.slot in slots or (one.place >= 0 and one.place in places):
            continue
        slots.add(one.slot)
        if one.place >= 0 and one.value != ANYTHING:
            places.add(one.place)
        state[one.slot] = one.value
    return state
