"""A trained editor's folder, and its scores of many choices.

FOLDER/params       editor, encoder
FOLDER/facts.json   configs, and how texts are read
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree

from jaxrec import checkpoint, config
from jaxrec.config import RunError
from jaxrec.models.personal.editor import (
    Edited,
    Editor,
    EditorBatch,
    EditorConfig,
    edit,
    profile_of,
    score_drafts,
)
from jaxrec.models.personal.profile import ProfileEncoder, ProfileEncoderConfig
from jaxrec.models.text.text_vectors import Texts


@dataclasses.dataclass(frozen=True)
class EditorModel:
    """An editor with its weights; `encoder` is None where p does not enter."""

    editor: Editor
    encoder: ProfileEncoder | None
    params: PyTree
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def profiles(
        self, texts: Texts, batch: EditorBatch, rows: int = 256
    ) -> Float[np.ndarray, "B E"]:
        """p of each row from the pieces shown. Raises ValueError for an editor that takes no p."""
        if self.encoder is None:
            raise ValueError("this editor takes no p")
        program = _profiles(self.editor, self.encoder)
        return _in_parts(program, {**self.params, "texts": texts}, batch, (), rows)[0]

    def scores(
        self,
        texts: Texts,
        batch: EditorBatch,
        p_BE: Float[np.ndarray, "B E"] | None = None,
        rows: int = 256,
    ) -> tuple[Float[np.ndarray, "B J"], Float[np.ndarray, "B J"]]:
        """(scores, keep-logits) of every draft.

        Args:
          texts: the library that the batch points into.
          batch: contexts and drafts by number.
          p_BE: who chooses; by default each row's own, from its pieces.
          rows: at a time.
        """
        if self.encoder is not None and p_BE is None:
            p_BE = self.profiles(texts, batch, rows)
        given = () if p_BE is None else (np.asarray(p_BE, np.float32),)
        score, keep = _in_parts(
            _scores(self.editor), {**self.params, "texts": texts}, batch, given, rows
        )
        return score, keep

    def edit(
        self,
        question: str,
        drafts: Sequence[str],
        rewrite: Callable[[str], str],
        read: Callable[[Sequence[str]], Texts],
        *,
        p_E: Float[np.ndarray, " E"] | None = None,
        threshold: float = 0.0,
    ) -> Edited:
        """What goes out for a person: the best of some drafts, rewritten where it may not be kept.

        Args:
          question: what is answered.
          drafts: answers to it, from any writer.
          rewrite: a draft -> the same in the person's voice (a rewriter of `train.rewrite`, say).
          read: texts -> their Z, as the editor was trained on it (`text_vectors.read_texts` with the facts' settings).
          p_E: the person; None: nobody in particular.
          threshold: the keep-logit above which a draft stays as it is.

        Raises ValueError without drafts.
        """
        count = len(drafts)
        nothing = np.full((1, 1), -1, np.int32)
        # Text 0 is the question and the drafts follow; no piece of the person's is shown, because p is given.
        batch = EditorBatch(
            np.zeros(1, np.int32),
            np.arange(1, count + 1, dtype=np.int32)[None],
            np.full((1, count), -1, np.int32),
            nothing,
            nothing,
        )

        def score(said: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            p_BE = None if p_E is None else p_E[None]
            scores, keeps = self.scores(read([question, *said]), batch, p_BE, rows=1)
            return scores[0], keeps[0]

        if not count:
            raise ValueError("there is no draft to choose from")
        return edit(drafts, score, rewrite, threshold)


def save_editor(folder: str | Path, model: EditorModel, facts: dict[str, Any]) -> None:
    """Writes an editor; `facts` are further facts for facts.json (data, reading of texts)."""
    encoder = model.encoder and config.to_dict(model.encoder.cfg)
    own = {"editor": config.to_dict(model.editor.cfg), "encoder": encoder}
    checkpoint.save_params(folder, model.params, {**facts, **own})


def load_editor(folder: str | Path) -> EditorModel:
    """An editor from its folder. Raises CheckpointError, and RunError for the folder of another model."""
    facts = checkpoint.load_facts(folder)
    if "editor" not in facts:
        raise RunError(f"{folder} is no editor: its facts.json lacks 'editor'")
    encoder = facts["encoder"]
    return EditorModel(
        Editor(config.from_dict(EditorConfig, facts["editor"])),
        encoder and ProfileEncoder(config.from_dict(ProfileEncoderConfig, encoder)),
        checkpoint.load_params(folder),
        facts,
    )


def _in_parts(
    apply: Any, tree: PyTree, batch: EditorBatch, given: tuple, rows: int
) -> tuple[np.ndarray, ...]:
    """One compiled program for all parts: the last is filled up with its last row."""
    count, parts = len(batch.context_B), []
    # Once, and not with each part: the library of texts is in the tree.
    tree = jax.device_put(tree)
    for start in range(0, count, rows):
        # The last part repeats its last row up to `rows`, so that there is one program.
        index = np.minimum(np.arange(start, start + rows), count - 1)
        part = jax.tree.map(lambda x, index=index: x[index], batch)
        parts.append(jax.tree.map(np.asarray, apply(tree, part, *(x[index] for x in given))))
    return tuple(np.concatenate(column)[:count] for column in zip(*parts, strict=True))


@functools.cache
def _scores(editor: Editor) -> Any:
    # Modules compare by their configs, so models of one shape share the programs that are cached here.
    return jax.jit(lambda tree, batch, p=None: score_drafts(editor, tree, batch, p))


@functools.cache
def _profiles(editor: Editor, encoder: ProfileEncoder) -> Any:
    return jax.jit(lambda tree, batch: (profile_of(editor, encoder, tree, batch),))
