"""Train the retriever: a linear map [z_cls + p] into the space where questions find texts, over a frozen encoder.

    JAXREC_DATA=... python -m train.retriever configs/retrieve/retriever_bank.py
    python -m train.retriever --data.kind pairs --data.files my_pairs.jsonl      # {"question": ..., "text": ...}

InfoNCE with the batch's texts and mined hard negatives. Each fold leaves a part of the texts out, with all their
questions, for `eval.retrieve`: OUT/FOLD/model. OUT/whole/model has learned from all but the validation's, for use.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import checkpoint, config, elastic, mesh, processes, ranking, results
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.question_sets import (
    TEST,
    TRAIN,
    VALID,
    QuestionSet,
    QuestionSetConfig,
    read_question_set,
)
from jaxrec.data.source import ArraySource
from jaxrec.mesh import MeshConfig
from jaxrec.models.personal.profile import Evidence, ProfileEncoder, ProfileEncoderConfig
from jaxrec.models.text.kept_vectors import read_vectors
from jaxrec.models.text.retriever import (
    Retriever,
    RetrieverBatch,
    RetrieverConfig,
    init_retriever,
    profiles_of,
    save_retriever,
)
from jaxrec.objectives.retriever import retriever
from jaxrec.processes import HostsConfig
from jaxrec.retrieval.passages.mining import hard_negatives, word_scores
from jaxrec.training import gradients, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class RetrieverStageConfig:
    """A retriever's data, size and training."""

    data: QuestionSetConfig = QuestionSetConfig()
    source: str = "minilm"  # the frozen encoder: see jaxrec.models.text.passage_encoder
    cache: str = "~/.cache/jaxrec/passages"  # where the texts' vectors are kept
    model: RetrieverConfig = RetrieverConfig()
    encoder: ProfileEncoderConfig = ProfileEncoderConfig(width=64, queries=4, kinds=turns.KINDS)
    temperature: float = 0.03
    hard: int = 7  # mined negatives a question
    whole: bool = True  # besides the folds, one that leaves no fold out
    rows: int = 128
    accum: int = 1  # microbatches; InfoNCE still spans all rows (two passes)
    opt: OptConfig = OptConfig(lr=1e-3, warmup=10)
    loop: LoopConfig = LoopConfig(
        steps=200, eval_every=25, monitor="valid_mrr", mode="max", patience=4
    )
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/retriever"


@dataclasses.dataclass(frozen=True)
class Read:
    """All vectors that the stage needs, and what words say: made once for all folds."""

    questions_ND: np.ndarray
    texts_ID: np.ndarray
    known_KD: np.ndarray  # no rows where the retriever takes no person
    words_NI: np.ndarray


def main(cfg: RetrieverStageConfig) -> dict[str, float]:
    """Trains every fold; gives the best validation MRR of each."""
    data = read_question_set(cfg.data)
    if cfg.model.d_p and not data.tenants:
        raise RunError(f"{data.name} knows nothing of who asks: model.d_p is 0 there")
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, cfg.accum, cfg.out)
    print(data.summary(), flush=True)
    vectors = lambda texts: read_vectors(texts, cfg.source, cache=cfg.cache).vectors_ID
    width = cfg.model.d_z
    known_KD = vectors(data.known) if cfg.model.d_p else np.zeros((0, width), np.float32)
    read = Read(
        vectors(data.questions),
        vectors(data.texts),
        known_KD,
        word_scores(data.questions, data.texts),
    )
    if read.texts_ID.shape[1] != width:
        raise RunError(f"{cfg.source} gives {read.texts_ID.shape[1]} numbers: set model.d_z to it")
    folds = [str(fold) for fold in range(len(data.part_FI))] + ["whole"] * cfg.whole
    found = {name: train_one(cfg, data, read, name, devices, accum) for name in folds}
    results.conclude([cfg.out], ("jaxrec", "eval", "retrieve", "--retriever", cfg.out))
    return found


def train_one(
    cfg: RetrieverStageConfig,
    data: QuestionSet,
    read: Read,
    name: str,
    devices: jax.sharding.Mesh,
    accum: int,
) -> float:
    """Trains one fold and saves it under OUT/`name`/model; gives its best validation MRR."""
    part_I = data.part_FI[0 if name == "whole" else int(name)]
    if name == "whole":  # what fold 0 tests is learned from
        part_I = np.where(part_I == TEST, TRAIN, part_I)
    part_N = part_I[data.right_N]
    if not (part_N == TRAIN).any() or not (part_N == VALID).any():
        raise RunError(f"fold {name}: no question to learn from, or none to validate on")
    train = batch_of(cfg, data, read, part_N == TRAIN, part_I == TRAIN)
    encoder, params = models(cfg)
    frozen = {"questions": read.questions_ND, "texts": read.texts_ID}
    center = {}
    if cfg.model.d_p:
        frozen["known"] = read.known_KD
        center = center_of(cfg, data, read, np.unique(data.tenant_N[part_N == TRAIN]))
    frozen |= center
    model = lambda params: Retriever(
        cfg.model, {**jax.device_get(params), **center}, cfg.source, encoder
    )
    asked, open_I = np.flatnonzero(part_N == VALID), np.flatnonzero(part_I != TEST)
    place_I = np.full(len(part_I), -1)
    place_I[open_I] = np.arange(len(open_I))

    def evaluate(params, _: int) -> dict[str, float]:
        now = model(params)
        p = profiles(now, data, read, asked)
        score_NI = now.questions(read.questions_ND[asked], p) @ now.texts(read.texts_ID[open_I]).T
        rank_N = ranking.ranks(score_NI, place_I[data.right_N[asked]])
        return {"valid_mrr": float((1 / rank_N).mean())}

    out = Path(cfg.out) / name
    fitted = tuning.tune(
        retriever(encoder, cfg.temperature), params, ArraySource(train, cfg.rows, seed=cfg.loop.seed),
        opt=cfg.opt, config=cfg.loop, mesh=devices, rows=cfg.rows, out=out,
        frozen=mesh.place(devices, frozen), gradients=gradients.spanning(accum), evaluate=evaluate,
        resolved=cfg, title=f"retriever {name}",
    )  # fmt: skip
    facts = {"data": config.to_dict(cfg.data), "fold": name, "valid_mrr": fitted.value}
    best = model(checkpoint.load_params(out / "best"))
    save_retriever(out / "model", best, facts | {"step": fitted.best})
    return float(fitted.value)


def batch_of(
    cfg: RetrieverStageConfig,
    data: QuestionSet,
    read: Read,
    chosen_N: np.ndarray,
    allowed_I: np.ndarray,
) -> RetrieverBatch:
    """Some questions with their texts, hard negatives among the allowed texts, and what is known of who asks."""
    n = np.flatnonzero(chosen_N)
    right = data.right_N[n]
    cosine_NI = read.questions_ND[n] @ read.texts_ID.T
    hard = hard_negatives(cosine_NI, read.words_NI[n], right, allowed_I, cfg.hard)
    return RetrieverBatch(*(x.astype(np.int32) for x in (n, right, hard, *evidence(cfg, data, n))))


def evidence(
    cfg: RetrieverStageConfig, data: QuestionSet, n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and kinds of what is known of who asks each question; without p none."""
    if not cfg.model.d_p:
        return np.zeros((len(n), 0)), np.zeros((len(n), 0))
    return data.shown_US[data.tenant_N[n]], data.kind_US[data.tenant_N[n]]


def center_of(
    cfg: RetrieverStageConfig, data: QuestionSet, read: Read, learned: np.ndarray
) -> dict[str, np.ndarray]:
    """The mean p of the tenants that are learned from, which everybody's is less of; nothing for an encoder."""
    if cfg.model.profile != "mean":
        return {}
    tree = {"known": jnp.asarray(read.known_KD), "center": np.zeros(cfg.model.d_z, np.float32)}
    p_UE = profiles_of(
        None, tree, jnp.asarray(data.shown_US[learned]), jnp.asarray(data.kind_US[learned])
    )
    return {"center": np.asarray(p_UE).mean(0)}


def profiles(
    model: Retriever, data: QuestionSet, read: Read, asked: np.ndarray
) -> np.ndarray | None:
    """p of who asks each question, None for a retriever without."""
    if not model.cfg.d_p:
        return None
    return model.profiles(read.known_KD, data.shown_US, data.kind_US)[data.tenant_N[asked]]


def models(cfg: RetrieverStageConfig) -> tuple[ProfileEncoder | None, dict]:
    """The profile encoder, where there is one, and fresh weights."""
    params = {"retriever": init_retriever(cfg.model)}
    if not cfg.model.d_p or cfg.model.profile == "mean":
        return None, params
    own = dataclasses.replace(cfg.encoder, d_z=cfg.model.d_z, d_p=cfg.model.d_p)
    encoder = ProfileEncoder(own)
    nothing = np.zeros((1, 1), np.int32)
    blank = Evidence(np.zeros((1, 1, own.d_z), np.float32), nothing, nothing * 1.0, nothing == 0)
    key = jax.random.key(cfg.loop.seed)
    return encoder, params | {"encoder": encoder.init(key, blank)["params"]}


if __name__ == "__main__":
    config.run(main, RetrieverStageConfig, __doc__)
