"""The races that need a GPU: bfloat16, sizes that people serve and tune. Run by `python -m bench --device gpu`.

Rows say what was reached of the chip's peak (`mfu`, `of_bandwidth`: see `chip`). Peers are torch on the same chip.
"""

from bench.race import jax_matmul, shape
from bench.race.card import JAX, TORCH
from bench.race.harness import Entry, Race
from bench.race.tenants import POPULATIONS

SIZE = "qwen-500m"
OURS = {"size": SIZE, "dtype": "bfloat16"}
THEIRS = OURS | {"device": "cuda"}
LOSSES, LOGITS = 0.02, 0.05  # how far answers in bfloat16 may lie apart


def _sft(batch: int, length: int) -> Race:
    sizes = {"batch": batch, "length": length}
    own = Entry(f"{JAX}sft", options=OURS | sizes)
    return Race(
        name=f"gpu-sft-{length}",
        about=f"LoRA step (rank 16, seven sites, AdamW) of Qwen2.5-0.5B's shape on {batch} x {length} tokens, bfloat16",
        base="torch + peft",
        entries={
            "torch + peft": Entry(f"{TORCH}sft", options=THEIRS | sizes, environment="peers"),
            "torch.compile + peft": Entry(
                f"{TORCH}sft", options=THEIRS | sizes | {"compiled": True}, environment="peers"
            ),
            "jaxrec": own,
            "jaxrec, cuDNN attention": Entry(
                own.module, options=dict(own.options) | {"attention": "cudnn"}
            ),
        },
        unit="tokens/s",
        units=batch * length,
        bars={"jaxrec": 1.2},
        tolerance=LOSSES,
        rounds=5,
        device="gpu",
    )


def _decode(batch: int) -> Race:
    sizes = {"batch": batch}
    return Race(
        name=f"gpu-generate-{batch}",
        about=f"greedy generation by Qwen2.5-0.5B's shape at batch {batch}, bfloat16",
        base="transformers",
        entries={
            "transformers": Entry(f"{TORCH}decode", options=THEIRS | sizes, environment="peers"),
            "jaxrec": Entry(f"{JAX}decode", options=OURS | sizes),
        },
        unit="tokens/s",
        units=batch * shape.NEW,
        tolerance=LOGITS,
        rounds=5,
        device="gpu",
    )


def _tenants() -> Race:
    entry = lambda work: Entry(f"{JAX}tenants_lora", work, {"size": "30m", "batch": 64})
    streams = {f"jaxrec, stream over {n:,} tenants": entry(f"stream_{n}") for n in POPULATIONS}
    return Race(
        name="gpu-tenants",
        about="64 tenants in a batch, each row with its own LoRA on q and v made from p, 30M Llama shape, fp32",
        base="jaxrec, one shared delta",
        entries={
            "jaxrec, one shared delta": entry("shared"),
            "jaxrec, 64 tenants": entry("distinct"),
            **streams,
        },
        unit="tokens/s",
        units=64 * shape.NEW,
        rounds=5,
        device="gpu",
    )


def _steps(model: str, about: str) -> Race:
    name = f"jaxrec, {model}"
    return Race(
        name=f"gpu-{model}",
        about=about,
        base=name,
        entries={name: Entry(f"{JAX}recommenders", options={"model": model})},
        unit="steps/s",
        units=1,
        rounds=5,
        device="gpu",
    )


def _matmul(tokens: int) -> Race:
    entry = lambda stored: Entry(f"{JAX}matmul", f"tokens_{tokens}", {"stored": stored})
    return Race(
        name=f"gpu-nf4-{tokens}",
        about=f"x [{tokens}, 4096] @ W [4096, 11008], the weights as NF4 codes against bfloat16 ones",
        base="jaxrec, bfloat16",
        entries={"jaxrec, bfloat16": entry("bfloat16"), "jaxrec, nf4": entry("nf4")},
        unit="products/s",
        units=jax_matmul.REPEATED,
        tolerance=LOSSES,
        rounds=5,
        device="gpu",
    )


RACES = (
    _sft(16, 1024),
    _sft(4, 4096),
    Race(
        name="gpu-dpo",
        about="a DPO step (LoRA as above) of Qwen2.5-0.5B's shape on 8 pairs of 512 tokens, bfloat16",
        base="trl",
        entries={
            "trl": Entry(f"{TORCH}dpo", options=THEIRS | {"length": 512}, environment="peers"),
            "jaxrec": Entry(f"{JAX}dpo", options=OURS | {"length": 512}),
        },
        unit="pairs/s",
        units=8,
        tolerance=LOSSES,
        rounds=5,
        device="gpu",
    ),
    *(_decode(batch) for batch in (1, 64, 256)),
    _tenants(),
    *(_matmul(tokens) for tokens in jax_matmul.TOKENS),
    _steps("tiger", "TIGER's encoder-decoder: a step of 256 examples of Beauty's size"),
    _steps(
        "hstu",
        "HSTU: a step of 32 histories of 200 films, full cross-entropy over ML-1M's catalogue",
    ),
    Race(
        name="gpu-7b",
        about="a LoRA step (rank 16, seven sites) of Llama 2 7B's shape on NF4 weights, 1 x 1024 tokens, bfloat16",
        base="jaxrec, nf4",
        entries={
            "jaxrec, nf4": Entry(
                f"{JAX}qlora",
                options={"size": "7b", "batch": 1, "length": 1024, "dtype": "bfloat16"},
            )
        },
        unit="tokens/s",
        units=1024,
        rounds=5,
        device="gpu",
    ),
)
