"""One object that speaks for tenants: load a personal model, onboard whoever one likes, ask, save.

assistant = Assistant.load("runs/universal")                # a universal stage's OUT, or a personalize stage's
assistant.onboard("my_shops", by="gradient")                # a folder of tenants; see jaxrec.data.tenants
assistant.answer("Do you open on Sunday?", tenant="corner_bakery")
assistant.save("runs/mine")                                 # Assistant.load("runs/mine") knows them all again
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrec import mesh
from jaxrec.assistant.fitting import By, OnboardConfig, onboard
from jaxrec.config import RunError
from jaxrec.data import text, turns
from jaxrec.data.tenant import Turn
from jaxrec.data.tenant_rows import check_text
from jaxrec.data.tenants import Source, TenantError, nearest, read_tenants
from jaxrec.delta import DeltaConfig, bank, take
from jaxrec.dialogue.pages import Grounded, PageFinder, asked_in, ground
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.answering import Answering
from jaxrec.models.personal.personal_folder import Personal, load_personal
from jaxrec.models.personal.profile_folder import (
    Profile,
    find_personal,
    find_profile,
    load_profile,
    save_profile,
)
from jaxrec.structs import Delta
from jaxrec.training import tuning
from jaxrec.training.loop import LoopConfig

# A question, or a conversation that ends with one: turns as (role, text), {"role", "content"} or `Turn`.
Conversation = str | Sequence[tuple[str, str] | Mapping[str, Any] | Turn]
ROUNDED, LONGEST = (
    32,
    512,
)  # tokens: questions are padded to a multiple, and cut at their left above the most


@dataclasses.dataclass(frozen=True)
class Voice:
    """How the model speaks for one tenant: by its p [E], or by a Delta of its own (one row) of layout `spec`."""

    p_E: np.ndarray
    delta: Delta | None = None
    spec: DeltaConfig = DeltaConfig()


class Assistant:
    """A personal model and the tenants that it speaks for. Programs are compiled once and kept.

    model: a loaded personal model. devices: the mesh that it lies on. folder: where it was loaded from, as `save`
    notes it. rows: questions that are answered at a time. limit: tokens of an answer at most. repetition: penalty on
    what an answer has said already; 1: none.
    """

    def __init__(
        self,
        model: Personal,
        devices: jax.sharding.Mesh,
        folder: str | Path = "",
        *,
        rows: int = 8,
        limit: int = 128,
        repetition: float = 1.0,
    ):
        self.model, self.devices, self.folder = model, devices, str(folder)
        self.rows, self.limit, self.repetition = rows, limit, repetition
        trained = model.params.get("profile", {}).get("p", ())
        self._voices = {
            key: Voice(np.asarray(p_E)) for key, p_E in zip(model.tenants, trained, strict=False)
        }
        self._onboarded: list[str] = []
        self._finders: dict[str, PageFinder] = {}
        self._answering: dict[int, Answering] = {}

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        profile: str | Path = "",
        quantise: str = "",
        rows: int = 8,
        limit: int = 128,
        repetition: float = 1.0,
        devices: jax.sharding.Mesh | None = None,
    ) -> "Assistant":
        """An assistant from a universal stage's OUT, or from the folder of an earlier onboarding or `save`.

        Args:
          folder: of the universal stage, or of a personalize or prefer stage, which names its model itself.
          profile: onboarded tenants beside those, a personalize stage's OUT or OUT/profile.
          quantise: "nf4" or "int8", of the backbone's kernels.
          rows: questions that are answered at a time.
          limit: tokens of an answer at most.
          repetition: penalty on what an answer has said already; 1: none.
          devices: a mesh; all devices when not given.

        Raises RunError for a folder that is neither, and what `load_personal` raises.
        """
        devices = mesh.make(MeshConfig()) if devices is None else devices
        model_folder, own = find_personal(folder)
        model = load_personal(model_folder, devices, quantise)
        assistant = cls(model, devices, model_folder, rows=rows, limit=limit, repetition=repetition)
        others = [find_profile(profile)] if str(profile) else []
        for found in ([own] if own else []) + others:
            assistant.add(load_profile(found, model.lm), found)
        return assistant

    @property
    def tenants(self) -> tuple[str, ...]:
        """Keys of all whom it speaks for: those onboarded, then those of the model's training."""
        rest = [key for key in self._voices if key not in self._onboarded]
        return (*self._onboarded, *rest)

    @property
    def onboarded(self) -> tuple[str, ...]:
        """Keys of those who were onboarded."""
        return tuple(self._onboarded)

    @property
    def room(self) -> int:
        """Tokens of a conversation that are read at most; of a longer one the oldest are not."""
        return self._room

    def add(self, profile: Profile, where: str | Path = "") -> None:
        """Takes up the tenants of a profile. Raises RunError for one of a model with another width of p."""
        p_UE = profile.inferred_UE if profile.p_UE is None else profile.p_UE
        wanted = self.model.lm.cfg.d_p
        if p_UE is None or p_UE.shape != (len(profile.tenants), wanted):
            raise RunError(
                f"{where or 'the profile'} is of another model: it has no p of width {wanted}"
            )
        for u, key in enumerate(profile.tenants):
            delta = None
            if key in profile.own:
                delta = take(profile.delta, jnp.array([profile.own.index(key)]))
            self._voices[key] = Voice(
                p_UE[u], delta, profile.spec if delta is not None else DeltaConfig()
            )
            self._onboarded = [*(k for k in self._onboarded if k != key), key]
            self._finders.pop(key, None)
        for tenant in profile.told if self.model.pages else ():
            self._finders[tenant.key] = PageFinder(tenant)

    def onboard(
        self,
        tenants: Source | Sequence[Source],
        by: By = "encoder",
        *,
        examples: int = 30,
        steps: int = 100,
        out: str | Path = "",
        **settings: Any,
    ) -> list[str]:
        """Learns to speak for tenants, and gives their keys. What cannot be read of them is printed.

        Args:
          tenants: a folder, a file, an object, a `Tenant`, or several: see `jaxrec.data.tenants`.
          by: "encoder" (one pass), "gradient" (p is fitted) or "lora" (a Delta of its own).
          examples: of each tenant's dialogues at most; 0: its guide alone.
          steps: of fitting.
          out: a folder for the fit's log and checkpoints; nothing is kept when empty.
          settings: further fields of `OnboardConfig`.

        Raises RunError for tenants that cannot be read, or lack what `by` needs.
        """
        found, skipped = read_tenants(tenants)
        tuning.say("tenants, left out", skipped)
        count = sum(min(len(t.onboarding), examples) or len(t.feedback) for t in found)
        fitting = {
            "rows": _batch(count, self.devices.size),
            "loop": LoopConfig(steps, progress=False),
        }
        cfg = OnboardConfig(by=by, examples=examples, **{**fitting, **settings})
        with tempfile.TemporaryDirectory() as scratch:
            profile = onboard(
                self.model, found, cfg, devices=self.devices, out=out or scratch, name=self.folder
            )
        self.add(profile)
        return list(profile.tenants)

    def answer(
        self,
        question: Conversation,
        tenant: str | None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """What a tenant would answer.

        Args:
          question: a text, or a conversation that ends with one.
          tenant: its key; None: nobody in particular.
          temperature: 0 takes the likeliest words.
          seed: of the draws above that.

        Raises as `answers`.
        """
        return self.answers([question], tenant, temperature=temperature, seed=seed)[0]

    def answers(
        self,
        questions: Sequence[Conversation],
        tenant: str | Sequence[str | None] | None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """An answer to each question, `rows` of them at a time.

        Args:
          questions: texts, or conversations that end with one; of more than `LONGEST` tokens the oldest are not read.
          tenant: a key, or one for each question; None: nobody in particular.
          temperature: 0 takes the likeliest words.
          seed: of the draws above that.


        Raises RunError for a tenant that is not known (with the nearest names) and for an empty question.
        """
        whose = (
            [tenant] * len(questions) if tenant is None or isinstance(tenant, str) else list(tenant)
        )
        voices = [self.voice(key) for key in whose]
        asked, length = self._asked(questions, whose)
        said = [""] * len(questions)
        for rows in _alike(voices):
            texts = self._writes(len(rows)).write(
                self.model.params,
                _together([voices[i] for i in rows]),
                [asked[i] for i in rows],
                length,
                temperature=temperature,
                seed=seed + rows[0],
            )
            for i, one in zip(rows, texts, strict=True):
                said[i] = one.strip()
        return said

    def ground(self, question: Conversation, tenant: str | None) -> Grounded:
        """A question as the tenant's model reads it: its name and a page that was found, where the model was trained
        with pages and the tenant has some. A conversation with a system turn of its own stays as it is.

        question, tenant: as of `answer`.
        """
        asked = tuple(Turn(role, said) for role, said in as_turns(question))
        finder, cfg = self._finders.get(tenant or ""), self.model.pages
        if finder is None or cfg is None or asked[0].role == "system":
            return Grounded(asked)
        pages = finder.find(asked_in(asked), cfg.count)
        return ground(self.model.chat, finder.tenant, asked, pages, cfg, self._room)

    def stream(
        self,
        question: Conversation,
        tenant: str | None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The answer piece by piece, as it is written; joined, the pieces are `answer` (with blanks at its ends).

        question, tenant, temperature, seed: as of `answer`.
        """
        voice, (asked, length) = self.voice(tenant), self._asked([question], [tenant])
        pieces = self._writes(1).stream(
            self.model.params, _together([voice]), asked, length, temperature=temperature, seed=seed
        )
        return (piece for (piece,) in pieces if piece)

    def nats(
        self,
        questions: Sequence[Conversation],
        answers: Sequence[str],
        tenant: str | None,
    ) -> Float[np.ndarray, "N 2"]:
        """How unexpected answers are of a tenant: -log p of each in nats, and how many tokens that was.

        Args:
          questions: as of `answers`.
          answers: one to each; of more tokens than a question may have, or than `limit` where the backbone itself
            answers, the rest is not counted.
          tenant: a key; None: nobody in particular.

        Raises as `answers`.
        """
        voice = self.voice(tenant)
        asked, length = self._asked(questions, [tenant] * len(questions))
        if not asked:
            return np.zeros((0, 2))
        most = self.limit if self.model.lm.inside else LONGEST
        chat = self.model.chat
        told = [turns.answer_of(chat, one, most) for one in answers]
        width = _rounded(max((len(row.ids) for row in told), default=1))
        question, answer = (
            text.pad(rows, size, chat.pad_id) for rows, size in ((asked, length), (told, width))
        )
        whose = _together([voice] * len(asked))
        log_p_N = self._writes(self.rows).logprob(self.model.params, whose, question, answer)
        return np.stack([-log_p_N, answer["loss_BL"][:, 1:].sum(1)], axis=1)

    def voice(self, tenant: str | None) -> Voice:
        """How it speaks for a tenant; p = 0 for nobody. Raises TenantError, with the nearest names, for a stranger."""
        if tenant is None:
            return Voice(np.zeros(self.model.lm.cfg.d_p, np.float32))
        if tenant not in self._voices:
            raise TenantError(f"there is no tenant {tenant!r}{nearest(tenant, self.tenants)}")
        return self._voices[tenant]

    def save(self, folder: str | Path) -> None:
        """Writes FOLDER/profile with the onboarded tenants, by which `load` finds model and tenants again.

        Raises RunError where nobody was onboarded, or Deltas are of several layouts, which one bank does not hold.
        """
        if not self._onboarded:
            raise RunError("nobody was onboarded: there is nothing to save beside the model itself")
        voices = {key: self._voices[key] for key in self._onboarded}
        own = tuple(key for key, voice in voices.items() if voice.delta is not None)
        if len({voices[key].spec for key in own}) > 1:
            raise RunError(
                "the tenants' Deltas are of several layouts: onboard them alike to save them"
            )
        p_UE = np.stack([voice.p_E for voice in voices.values()])
        delta = bank([voices[key].delta for key in own]) if own else None
        spec = voices[own[0]].spec if own else DeltaConfig()
        by_p = None if len(own) == len(voices) else p_UE
        told = tuple(self._finders[key].tenant for key in voices if key in self._finders)
        found = Profile(tuple(voices), self.folder, by_p, p_UE, own, delta, spec, told=told)
        save_profile(Path(folder) / "profile", found)

    # -------------------------------------------------------------------------------------- inside

    def _writes(self, count: int) -> Answering:
        """One question is answered by a program of one row: eight would cost eight times as much."""
        rows = 1 if count == 1 else self.rows
        if rows not in self._answering:
            self._answering[rows] = Answering(
                self.model.lm,
                self.model.chat,
                rows=rows,
                limit=self.limit,
                repetition=self.repetition,
            )
        return self._answering[rows]

    @property
    def _room(self) -> int:
        """Tokens of a conversation that the backbone reads; behind them the answer, where it is the one who answers."""
        lm, whole = self.model.lm, self.model.lm.backbone.cfg.max_positions
        behind = self.limit + len(self.model.chat.marks().start) if lm.inside else 0
        if whole - behind < 2:
            raise RunError(f"the backbone reads {whole} tokens: set a limit below {self.limit}")
        return min(LONGEST, whole - behind)

    def _asked(
        self, questions: Sequence[Conversation], whose: Sequence[str | None]
    ) -> tuple[list[turns.Example], int]:
        grounded = [self.ground(q, key).turns for q, key in zip(questions, whose, strict=True)]
        told = [[(turn.role, turn.text) for turn in one] for one in grounded]
        rows = [turns.question_of(self.model.chat, one, self._room) for one in told]
        return rows, _rounded(max((len(row.ids) for row in rows), default=1))


def as_turns(question: Conversation) -> list[tuple[str, str]]:
    """A question as turns. Raises RunError for one that is empty, or in no form that is known."""
    told = [("user", question)] if isinstance(question, str) else [_turn(t) for t in question]
    if not told or not told[-1][1].strip():
        raise RunError("the question is empty")
    try:
        check_text([said for _, said in told])
    except ValueError as error:
        raise RunError(f"the question cannot be read: {error}") from error
    return told


def _turn(turn: tuple[str, str] | Mapping[str, Any] | Turn) -> tuple[str, str]:
    if isinstance(turn, Mapping):
        turn = (turn.get("role"), turn.get("content", turn.get("text")))
    role, said = (turn.role, turn.text) if isinstance(turn, Turn) else turn
    if not isinstance(role, str) or not isinstance(said, str):
        raise RunError(
            "a turn of a conversation is (role, text), or has the fields role and content"
        )
    return ("user" if role in ("customer", "human") else role), said


def _rounded(length: int) -> int:
    return -(-length // ROUNDED) * ROUNDED


def _alike(voices: Sequence[Voice]) -> list[list[int]]:
    """Places of those whose voices are of one kind, so that they can share a batch: by p, or by a Delta of a layout."""
    groups: dict[Any, list[int]] = {}
    for i, voice in enumerate(voices):
        groups.setdefault(None if voice.delta is None else voice.spec, []).append(i)
    return list(groups.values())


def _together(voices: Sequence[Voice]) -> np.ndarray | Delta:
    """What `Answering` takes: p [N, E], or a bank of Deltas."""
    if voices[0].delta is not None:
        return bank([voice.delta for voice in voices])
    return np.stack([voice.p_E for voice in voices])


def _batch(count: int, devices: int) -> int:
    """Rows of a batch for so few examples: the next power of two, 64 at most, a multiple of the devices."""
    rows = min(64, 1 << max(count - 1, 0).bit_length())
    return -(-rows // devices) * devices
