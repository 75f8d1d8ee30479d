"""Retrofit a frozen backbone: train what turns its hidden states into Z, by four objectives, until they plateau.

    python -m train.retrofit --backbone MODEL --tenants my_shops --data chats.jsonl
    python -m train.retrofit configs/personal/retrofit_sample.py
    python -m train.retrofit configs/personal/retrofit_sample.py \\
        --cuts 2 --lora.lora-rank 8 --lora.stacks stack_1     # and a LoRA on the layers above the second

Distil a teacher's next-token logits, restore masked spans, tell paraphrases from other questions, and route to topics:
all from Z alone. The heads that do it are dropped at the end; OUT/lfe keeps the projection and the pooling (and, by
option, the LoRA), with facts.json naming the backbone that they belong to.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec import checkpoint, config, elastic, mesh, objectives, processes, results
from jaxrec.config import RunError
from jaxrec.data import turns
from jaxrec.data.chat import ChatFormat
from jaxrec.data.feature_store import FeatureConfig, FeaturePart, FeatureStore
from jaxrec.data.instructions import read_instructions
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.data.tenants import read_tenants
from jaxrec.delta import DeltaConfig
from jaxrec.mesh import MeshConfig
from jaxrec.models.language.model_folder import place_facts
from jaxrec.models.personal.frozen_states import keep_states, top_row
from jaxrec.models.personal.heads import GenerativeHead, HeadConfig
from jaxrec.models.personal.inside import joined
from jaxrec.models.personal.lfe import LFE, LFEConfig, check_depth
from jaxrec.models.personal.personal_folder import load_backbone, load_teacher
from jaxrec.objectives import RetrofitWeights
from jaxrec.processes import HostsConfig
from jaxrec.structs import Retrofit, Tokens
from jaxrec.training import gradients, partition, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class RetrofitConfig:
    """A retrofit of one backbone."""

    backbone: str = "runs/sample/pretrain/model"  # a folder, GGUF file, name ("smollm2") or hub id
    tenants: tuple[str, ...] = ()  # whose conversations: see jaxrec.data.tenants
    data: tuple[str, ...] = ()  # and anybody's: see jaxrec.data.instructions
    limit: int = 0  # texts at most, spread over all that there are; 0: all
    teacher: str = ""  # any decoder with the same tokenizer; the backbone itself when empty
    lfe: LFEConfig = LFEConfig()
    cuts: tuple[int, ...] = ()  # of the backbone, so that lora.stacks can name its top layers
    lora: DeltaConfig = DeltaConfig()  # changes to the backbone's top layers, trained along
    reader_layers: int = 1  # of the training-only decoders
    reader_tied: bool = (
        False  # they borrow the backbone's vocabulary: for one of many thousand words
    )
    weights: RetrofitWeights = RetrofitWeights()
    context: int = 40  # tokens of a question
    length: int = 64  # tokens of what follows it
    rows: int = 32
    accum: int = 1  # microbatches; InfoNCE still spans all rows (two passes)
    opt: OptConfig = OptConfig(lr=3e-3, warmup=20)
    loop: LoopConfig = LoopConfig(steps=400, eval_every=50, patience=3, min_delta=0.005)
    features: FeatureConfig = FeatureConfig()  # where the backbone's and teacher's states are kept
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/retrofit"


def main(cfg: RetrofitConfig) -> dict[str, float]:
    """Trains until the loss plateaus and saves OUT/lfe; gives the last step's metrics."""
    texts, alike, topics = read(cfg)
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, cfg.accum, cfg.out)
    base = load_backbone(cfg.backbone, devices, cfg.cuts)
    backbone, weights, chat = base.model, base.params, base.chat
    check_depth(cfg.lfe, backbone.cfg.layers)
    teacher, told = (backbone, weights)
    if cfg.teacher:
        teacher, told = load_teacher(cfg.teacher, backbone, devices, chat)
    batch = batch_of(chat, cfg, texts, alike, topics)
    if cfg.features.folder:
        batch = batch.replace(states=states_of(cfg, batch, (backbone, weights), (teacher, told)))
    source = Prefetch(ArraySource(batch, cfg.rows, share=mesh.process_rows(devices, cfg.rows)))

    z = cfg.lfe.d_z
    reader = HeadConfig(backbone.cfg.vocab, z, cfg.reader_layers, 4, 2 * z, z)
    if cfg.reader_tied:
        reader = dataclasses.replace(
            reader, tied_to_backbone=True, d_backbone=backbone.cfg.d_model, tokens=chat.size
        )
    parts = objectives.RetrofitParts(backbone, teacher, LFE(cfg.lfe), GenerativeHead(reader))
    params = mesh.sharded_init(
        devices,
        lambda key: objectives.retrofit_params(key, parts, cfg.lora, max(len(topics), 1)),
        jax.random.key(cfg.loop.seed),
    )
    frozen = {"backbone": weights, "teacher": told}

    fitted = tuning.tune(
        objectives.retrofit(parts, cfg.weights), params, source, opt=cfg.opt, config=cfg.loop,
        mesh=devices, rows=cfg.rows, out=cfg.out, frozen=frozen,
        gradients=gradients.spanning(accum), resolved=cfg, title="retrofit",
    )  # fmt: skip
    kept, _ = partition.split(fitted.state.params, r"(lfe|lfe_delta)(/.*)?")
    facts = {
        "backbone": base.source,
        **place_facts(Path(cfg.out) / "lfe", base.source),
        "base_hash": base.hashed,
        "sentinels": chat.marks().sentinels,  # ids that stood for masked spans
        "lfe": config.to_dict(cfg.lfe),
        "cuts": cfg.cuts,
        "lora": config.to_dict(cfg.lora),
        "stopped": fitted.stopped,
    }
    folder = Path(cfg.out) / "lfe"
    checkpoint.save_params(folder, kept, facts)
    results.conclude(
        [folder], ("jaxrec", "train", "universal", "--lfe", cfg.out, "--tenants", "TENANTS")
    )
    return {"loss": fitted.value, "step": float(fitted.state.step)}


def read(cfg: RetrofitConfig) -> tuple[list[tuple[list, str]], list[turns.Alike], list[str]]:
    """Of the tenants and of `cfg.data`: conversations, texts that mean the same, and the topics that they are on."""
    tenants = []
    if cfg.tenants or not cfg.data:
        tenants, skipped = read_tenants(cfg.tenants)
        tuning.say("tenants, left out", skipped)
    said = lambda ts: [(t.role, t.text) for t in ts]
    texts = [(said(d.turns[:-1]), d.answer) for t in tenants for d in t.onboarding]
    for source in cfg.data:
        found, skipped = read_instructions(source)
        tuning.say(source, skipped)
        texts += [(list(one.prompt), one.answer) for one in found]
    if not texts:
        raise RunError(
            f"none of {len(tenants)} tenants has a dialogue, and a retrofit learns from conversations: name some with"
            " --data"
        )
    if 0 < cfg.limit < len(texts):
        texts = [texts[i] for i in np.linspace(0, len(texts) - 1, cfg.limit).astype(int)]
    alike = turns.texts_alike(tenants)
    if not alike:
        alike = [turns.Alike(answer, before[-1][1], answer) for before, answer in texts]
    topics = turns.topics_of(tenants, alike)
    if not topics:
        print("no dialogue has a topic: trained without the routing term", flush=True)
    return texts, alike, topics


def batch_of(
    chat: ChatFormat, cfg: RetrofitConfig, texts: list, alike: list[turns.Alike], topics: list[str]
) -> Retrofit:
    """Conversations as retrofit rows."""
    rows = turns.retrofit_rows(
        chat, texts, alike, topics, context=cfg.context, length=cfg.length, seed=cfg.loop.seed
    )
    tokens = lambda value: Tokens(**value) if isinstance(value, dict) else np.asarray(value)
    return Retrofit(**{name: tokens(value) for name, value in rows.items()})


def states_of(
    cfg: RetrofitConfig, batch: Retrofit, backbone: tuple[Any, Any], teacher: tuple[Any, Any]
) -> dict[str, FeatureStore | FeaturePart]:
    """What backbone and teacher give of every text of `batch`, on disk: `Retrofit.states`.

    cfg: how many layers, and where. backbone, teacher: (module, weights).
    Raises RunError where the retrofit changes the backbone.
    """
    if not cfg.lora.empty:
        raise RunError(
            "a retrofit with a LoRA changes the states that would be kept: leave out --lora or --features.folder"
        )
    model, weights = backbone
    run = lambda weights, tokens: top_row(model, cfg.lfe.top_k, weights, tokens)
    layers = f"the {cfg.lfe.top_k} highest hidden states"
    keep = lambda name: keep_states(
        run, weights, getattr(batch, name), cfg.features, layers=layers, what=f"retrofit, {name}"
    )
    states: dict[str, Any] = {
        name: keep(name) for name in ("context", "corrupted", "first", "second")
    }
    module, told = teacher
    last = lambda weights, tokens: top_row(module, 1, weights, tokens)
    rows = jax.tree.map(np.asarray, joined(batch.context, batch.continuation))
    read = keep_states(
        last, told, rows, cfg.features, layers="the last hidden state", what="retrofit, teacher"
    )
    states["continuation"] = FeaturePart(read, batch.context.ids_BL.shape[1])
    return states


if __name__ == "__main__":
    config.run(main, RetrofitConfig, __doc__)
