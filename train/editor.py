"""Train the editor: which of several drafts is a person's own, and whether a draft may go out as it stands.

    JAXREC_DATA=... python -m train.editor configs/personal/editor_popquorn.py
    JAXREC_DATA=... python -m eval.editor --model runs/editor_popquorn

p is inferred from pieces known of the person, a random few of them at each step, so that unseen people can be asked
about after any number of examples. Each fold and variant (own_p, no_p) is a run of its own that resumes:
OUT/FOLD/VARIANT/model is the editor with the best validation loss.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import checkpoint, config, elastic, mesh, processes, results
from jaxrec.data.candidate_sets import (
    TRAIN,
    VALID,
    CandidateSet,
    CandidateSetConfig,
    draw_pieces,
    first_shown,
    read_candidate_set,
)
from jaxrec.data.source import ArraySource
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.draft_vectors import DraftReading, read_drafts
from jaxrec.models.personal.editor import Editor, EditorBatch, EditorConfig, evidence_of
from jaxrec.models.personal.editor_folder import EditorModel, save_editor
from jaxrec.models.personal.profile import ProfileEncoder, ProfileEncoderConfig
from jaxrec.models.text.text_vectors import Texts
from jaxrec.objectives.editor import editor
from jaxrec.processes import HostsConfig
from jaxrec.training import tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class EditorTrainConfig:
    """An editor's data, size and training."""

    data: CandidateSetConfig = CandidateSetConfig()
    reading: DraftReading = DraftReading()
    editor: EditorConfig = EditorConfig()
    encoder: ProfileEncoderConfig = ProfileEncoderConfig(kinds=2, width=64, queries=4, prior=4)
    variants: tuple[Literal["own_p", "no_p"], ...] = ("own_p", "no_p")
    beta: float = 1.0
    smoothing: float = 0.0
    keep: float = 0.5  # weight of keep or rewrite beside the preference
    pieces: int = 9  # shown at most
    rows: int = 64
    opt: OptConfig = OptConfig(lr=1e-3, weight_decay=0.1, warmup=20)
    loop: LoopConfig = LoopConfig(steps=600, eval_every=50, monitor="valid_loss", patience=4)
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/editor"


def main(cfg: EditorTrainConfig) -> dict[str, float]:
    """Trains every fold and variant; gives the best validation loss of each."""
    processes.start(cfg.hosts)
    devices, _ = elastic.arrange(cfg.mesh, cfg.rows)
    data = read_candidate_set(cfg.data)
    print(data.summary(), flush=True)
    found = {}
    for fold in range(len(data.split_FN)):
        texts = mesh.place(devices, read_drafts(data, fold, cfg.reading))
        for variant in cfg.variants:
            name = f"{fold}/{variant}"
            found[name] = train_one(cfg, data, texts, fold, variant, devices, name)
    results.conclude([cfg.out], ("jaxrec", "eval", "editor", "--model", cfg.out))
    return found


def train_one(
    cfg: EditorTrainConfig,
    data: CandidateSet,
    texts: Texts,
    fold: int,
    variant: str,
    devices: jax.sharding.Mesh,
    name: str,
) -> float:
    """Trains one editor and saves it under OUT/`name`/model; gives its best validation loss."""
    train, valid = (np.flatnonzero(data.split_FN[fold] == part) for part in (TRAIN, VALID))
    width = texts.z_cls_ID.shape[-1]
    p_enters = cfg.editor.p_enters if variant == "own_p" else ()
    head = Editor(dataclasses.replace(cfg.editor, d_z=width, p_enters=p_enters))
    encoder = None
    if p_enters:
        encoder = ProfileEncoder(
            dataclasses.replace(cfg.encoder, d_z=3 * width, d_p=cfg.editor.d_p)
        )
    params = jax.jit(lambda key: init_params(key, head, encoder, width))(
        jax.random.key(cfg.loop.seed)
    )
    source = EpisodeSource(data, train, cfg.rows, cfg.pieces, cfg.loop.seed)
    objective = editor(head, encoder, beta=cfg.beta, smoothing=cfg.smoothing, keep=cfg.keep)
    asked = [batch_of(data, valid, *first_shown(data, valid, k, cfg.pieces)) for k in (1, 5)]
    loss = jax.jit(
        lambda params, frozen, batch: objective.loss(
            params, frozen, None, batch, objective.weigh(batch), None
        )
    )

    def evaluate(params, _: int) -> dict[str, float]:
        found = [loss(params, {"texts": texts}, batch) for batch in asked]
        pairs = np.mean([float(aux.metrics["accuracy"]) for _, aux in found])
        return {"valid_loss": float(np.mean([float(v) for v, _ in found])), "valid_pairs": pairs}

    out = Path(cfg.out) / name
    fitted = tuning.tune(
        objective, params, source, opt=cfg.opt, config=cfg.loop, mesh=devices, rows=cfg.rows,
        out=out, frozen={"texts": texts}, evaluate=evaluate, resolved=cfg, title=f"editor {name}",
    )  # fmt: skip
    best = EditorModel(head, encoder, checkpoint.load_params(out / "best"))
    facts = {
        "data": config.to_dict(cfg.data),
        "reading": config.to_dict(cfg.reading),
        "pieces": cfg.pieces,
        "valid_loss": fitted.value,
        "step": fitted.best,
    }
    save_editor(out / "model", best, facts)
    return fitted.value


class EpisodeSource:
    """Shuffled choices, each with other random pieces of its person in every epoch.

    What is shown depends on the seed and the batch's place alone, so a resumed run sees what the first would have.
    """

    def __init__(self, data: CandidateSet, rows_N: np.ndarray, rows: int, pieces: int, seed: int):
        self.data, self.pieces, self.seed = data, pieces, seed
        self.order = ArraySource(rows_N, rows, seed=seed)

    def init(self) -> Any:
        """The state before the first batch."""
        return self.order.init()

    def content(self) -> Any:
        """The first batch, and the order of the choices."""
        return self.order.content(), self(0, None, self.init())[0]

    def __call__(self, made: int, params: Any, state: Any) -> tuple[EditorBatch, Any]:
        """The next batch and the state after it."""
        picked, after = self.order(made, params, state)
        place = int(state["epoch"]), int(state["position"])
        rng = np.random.default_rng((self.seed, *place))
        return batch_of(self.data, picked, *draw_pieces(self.data, picked, self.pieces, rng)), after


def batch_of(
    data: CandidateSet, rows: np.ndarray, shown_context: np.ndarray, shown_text: np.ndarray
) -> EditorBatch:
    """The chosen rows of a set, with the pieces shown."""
    return EditorBatch(
        data.context_N[rows].astype(np.int32),
        data.candidate_NJ[rows],
        data.keep_NJ[rows],
        shown_context,
        shown_text,
    )


def init_params(
    key: jax.Array, head: Editor, encoder: ProfileEncoder | None, width: int
) -> dict[str, Any]:
    """A fresh editor, and encoder."""
    texts, one = Texts(jnp.zeros((1, width))), jnp.zeros((1, 1), jnp.int32)
    evidence = evidence_of(texts, one, one)
    p = jnp.zeros((1, head.cfg.d_p)) if head.cfg.p_enters else None
    z = jnp.zeros((1, 1, width))
    params = {"editor": head.init(key, z[:, 0], z, p)["params"]}
    if encoder is not None:
        params["encoder"] = encoder.init(jax.random.fold_in(key, 1), evidence)["params"]
    return params


if __name__ == "__main__":
    config.run(main, EditorTrainConfig, __doc__)
