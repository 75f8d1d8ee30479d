"""Pretrain a small decoder on text: the backbone (and the teacher) of everything that runs without a network.

    python -m train.pretrain configs/language/backbone_small.py
    python -m train.pretrain configs/language/backbone_small.py --model.layers 8 --out runs/deeper

Writes OUT/model, a Hugging Face folder (config.json, model.safetensors, tokenizer.json) that later stages, and
`transformers`, load; and OUT/metrics.jsonl with held-out bits per byte under `bits_per_byte`.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import config, elastic, hub, mesh, objectives, processes, results
from jaxrec.config import RunError
from jaxrec.data import corpus, text
from jaxrec.data.source import ArraySource, Prefetch
from jaxrec.data.store import reading as stores
from jaxrec.data.text import BytePairTokenizer
from jaxrec.losses.tokens import next_token
from jaxrec.mesh import MeshConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.processes import HostsConfig
from jaxrec.structs import Tokens
from jaxrec.training import gradients, tuning
from jaxrec.training.loop import LoopConfig
from jaxrec.training.optimizer import OptConfig


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """A run of next-token pretraining."""

    texts: tuple[
        str, ...
    ] = ()  # sources: see jaxrec.data.corpus; or stores: see jaxrec.data.tokenise
    held: tuple[str, ...] = ()  # sources that measure bits per byte
    hold_out_every: int = 50  # when `held` is empty, each so-many-th document measures them
    tokenizer: str = ""  # a tokenizer.json; trained on the texts (or the store's own) when empty
    model: DecoderConfig = DecoderConfig(
        vocab=2048, d_model=128, layers=4, d_ff=352, head_dim=32, heads=4
    )
    length: int = 128  # tokens a row
    rows: int = 32  # rows a batch
    accum: int = 1
    opt: OptConfig = OptConfig(lr=3e-3, warmup=50, weight_decay=0.01)
    loop: LoopConfig = LoopConfig(steps=1000, eval_every=250, monitor="bits_per_byte")
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()
    out: str = "runs/pretrain"


def main(cfg: PretrainConfig) -> dict[str, float]:
    """Trains and saves; gives the held-out `bits_per_byte`, its best value and the one at the end.

    Raises RunError where nothing is named to learn from.
    """
    if not cfg.texts:
        raise RunError(
            "nothing to learn from: name a folder or a file of texts with --texts (world is the sample world)"
        )
    processes.start(cfg.hosts)
    devices, accum = elastic.arrange(cfg.mesh, cfg.rows, cfg.accum, cfg.out)
    read = stored if stores.all_stores(cfg.texts) else in_memory
    tok, source, held = read(cfg, mesh.process_rows(devices, cfg.rows))
    hub.check_vocabulary(tok.size, cfg.model)
    model = Decoder(cfg.model)
    ids = jnp.zeros((1, 2), jnp.int32)
    params = mesh.sharded_init(
        devices, lambda key: model.init(key, ids)["params"], jax.random.key(cfg.loop.seed)
    )
    fitted = tuning.tune(
        objectives.pretrain(model), params, source, opt=cfg.opt, config=cfg.loop, mesh=devices,
        rows=cfg.rows, out=cfg.out, gradients=gradients.summed(accum),
        evaluate=bits_per_byte(model, tok, held, cfg), resolved=cfg, title="pretrain",
    )  # fmt: skip
    folder = Path(cfg.out) / "model"
    hub.save(folder, cfg.model, jax.device_get(fitted.state.params))
    tok.save(folder / "tokenizer.json")
    results.conclude(
        [folder], ("jaxrec", "train", "sft", "--base", folder, "--data", "CHATS.jsonl")
    )
    return {"bits_per_byte": fitted.value, "best_step": float(fitted.best)}


def in_memory(cfg: PretrainConfig, share: slice) -> tuple[BytePairTokenizer, Prefetch, list]:
    """(tokenizer, batches, held-out documents) of texts that are read whole."""
    documents = [d for t in cfg.texts for d in corpus.read(t)]
    if cfg.held:
        held = [d for t in cfg.held for d in corpus.read(t)]
        known = {corpus.plain(d) for d in held}
        train = [d for d in documents if corpus.plain(d) not in known]
    else:
        train, held = corpus.hold_out(documents, cfg.hold_out_every)
    tok = (
        BytePairTokenizer.load(cfg.tokenizer)
        if cfg.tokenizer
        else text.train_tokenizer((corpus.plain(d) for d in train), cfg.model.vocab)
    )
    packed = text.pack(corpus.encode(tok, train), cfg.length, split=True)
    return tok, Prefetch(ArraySource(Tokens(**packed), cfg.rows, share=share)), held


def stored(cfg: PretrainConfig, share: slice) -> tuple[BytePairTokenizer, Prefetch, list]:
    """(tokenizer, batches, held-out documents) of stores, of which only the rows of a batch are read."""
    opened = stores.open_stores(cfg.texts, "texts", cfg.length)
    tok = BytePairTokenizer.load(cfg.tokenizer) if cfg.tokenizer else opened.tokenizer()
    opened.check_writing(tok.hash)
    print(opened.said(), flush=True)
    held = [d for t in cfg.held for d in corpus.read(t)]
    held = held or [corpus.document_of(row) for _, row in opened.held()]
    if not held:
        raise RunError(
            "nothing is held out: name texts to measure on with --held, or make the store with --hold-out-every 50"
        )
    return tok, opened.source(cfg.rows, share=share), held


def bits_per_byte(model: Decoder, tok: BytePairTokenizer, held: list, cfg: PretrainConfig):
    """evaluate(params, step): information of the held-out texts, in bits, over their length in UTF-8 bytes.

    The tokens that mark turns and ends are paid for in bits and not counted in bytes.
    """
    rows = Tokens(**text.pack(corpus.encode(tok, held), cfg.length, split=True))
    n_bytes = sum(len(corpus.plain(d).encode()) for d in held)
    short = -len(rows.ids_BL) % cfg.rows
    rows = jax.tree.map(
        lambda x: np.pad(x, ((0, short), (0, 0))).reshape(-1, cfg.rows, x.shape[1]), rows
    )

    @jax.jit
    def nll(params, batch: Tokens):
        out = model.apply(
            {"params": params},
            batch.ids_BL,
            batch.mask_BL,
            segments_BL=batch.segments_BL,
            positions_BL=batch.positions_BL,
        )
        return next_token(out.logits, batch.ids_BL, batch.loss_BL)["nll"]

    def evaluate(params, step: int) -> dict[str, float]:
        batches = (jax.tree.map(lambda x, i=i: x[i], rows) for i in range(len(rows.ids_BL)))
        total = sum(float(nll(params, batch)) for batch in batches)
        return {"bits_per_byte": total / math.log(2) / n_bytes}

    return evaluate


if __name__ == "__main__":
    config.run(main, PretrainConfig, __doc__)
