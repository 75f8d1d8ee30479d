"""The races: who runs against whom, on what, and the ratio that we hold ourselves to.

A bar holds in the same run, with the same work and precision, answers equal, and memory at most `harness.MEMORY` times
the peer's. Decoding reads 32 tokens and writes 64, fp32, on the 30M Llama shape of `shape.py`, at batch 16 unless said.
"""

from bench.race import beauty, jax_beam, mix, ratings, rollouts, shape
from bench.race.harness import Against, Entry, Race
from bench.race.tenants import POPULATIONS

JAX, TORCH = "bench.race.jax_", "bench.race.torch_"
PEERS_READING = "bench.race.peers_reading"
TOKENS = 16 * shape.NEW


def _tenants(
    name: str, about: str, module: str, bar: float, merged: bool, **options: object
) -> Race:
    """Sixteen tenants in a batch, and batches drawn from more and more tenants, against one shared delta."""
    entry = lambda work: Entry(JAX + module, work, options)
    entries = {"jaxrec, one shared delta": entry("shared"), "jaxrec, 16 tenants": entry("distinct")}
    entries |= {"jaxrec, merged": entry("merged")} if merged else {}
    streams = {n: f"jaxrec, stream over {n:,} tenants" for n in POPULATIONS}
    entries |= {label: entry(f"stream_{n}") for n, label in streams.items()}
    return Race(
        name=name,
        about=about,
        base="jaxrec, one shared delta",
        entries=entries,
        unit="tokens/s",
        units=TOKENS,
        bars={"jaxrec, 16 tenants": bar} if bar else {},
    )


def _generate(batch: int) -> Race:
    return Race(
        name=f"generate-{batch}",
        about=f"greedy generation at batch {batch} against transformers generate and llama.cpp, all of it in fp32",
        base="transformers",
        entries={
            "transformers": Entry(f"{TORCH}decode", options={"batch": batch}, environment="peers"),
            "llama.cpp": Entry(
                "bench.race.llama_cpp", options={"batch": batch}, environment="peers"
            ),
            "jaxrec": Entry(f"{JAX}decode", options={"batch": batch}),
        },
        unit="tokens/s",
        units=batch * shape.NEW,
        bars={"jaxrec": 2.0},
        also=(Against("jaxrec", "llama.cpp", 1.0),),
    )


# Of answers in fewer bits, against those in f32: the largest difference of a logit, in parts of the largest logit.
IN_BITS = {"bf16": 0.03, "f16": 0.01, "q8_0": 0.1, "q4": 0.1, "int8": 0.1}


def _real(model: str, about: str, batch: int, prompt: int, new: int, bar: float) -> Race:
    """A published language model reads and writes, in 32 bits and fewer. q4: the file as it was fetched."""
    work = {"size": model, "batch": batch, "prompt": prompt, "new": new}
    peer = lambda **more: Entry(f"{TORCH}decode", options=work | more, environment="peers")
    llama = lambda kind: Entry(
        "bench.race.llama_cpp", options=work | {"kind": kind}, environment="peers"
    )
    ours = lambda **more: Entry(f"{JAX}decode", options=work | more)
    entries = {
        "transformers": peer(),
        "transformers, bf16": peer(dtype="bfloat16"),
        **{f"llama.cpp, {kind}": llama(kind) for kind in ("f16", "q8_0", "q4")},
        "jaxrec": ours(),
        "jaxrec, bf16": ours(weights="bfloat16"),
        "jaxrec, int8": ours(weights="int8"),
    }
    best = [name for name in entries if name.startswith("jaxrec")]
    return Race(
        name=f"{model}-{about.split()[0]}",
        about=f"{model}: {about}",
        base="transformers",
        entries=entries,
        unit="tokens/s",
        units=batch * (new if new > 1 else prompt),
        bars=dict.fromkeys(best, bar) if bar else {},
        also=(
            *(Against(name, "transformers, bf16", bar or None) for name in best),
            Against("jaxrec, bf16", "llama.cpp, f16", 0.7),
            Against("jaxrec, int8", "llama.cpp, q8_0", 0.7),
            Against("jaxrec, int8", "llama.cpp, q4"),
        ),
        loose={n: IN_BITS[n.split(", ")[1]] for n in entries if ", " in n},
        rounds=5,
        model=model,
    )


def _real_model(model: str) -> tuple[Race, ...]:
    return (
        _real(model, "1 text of 32 tokens, 32 are written", 1, 32, 32, bar=1.5),
        _real(model, "16 texts of 32 tokens, 16 are written to each", 16, 32, 16, bar=0),
        _real(model, "prefill of a text of 512 tokens, and one is written", 1, 512, 1, bar=0),
    )


def _search(batch: int) -> Race:
    entry = lambda engine: Entry(
        "bench.race.peers_search", options={"engine": engine, "batch": batch}, environment="peers"
    )
    ours = lambda engine: Entry(f"{JAX}search", options={"engine": engine, "batch": batch})
    return Race(
        name=f"search-{batch}",
        about=f"exact 30 nearest of 100,000 x 768, {batch} {'query' if batch == 1 else 'queries'} at once",
        base="faiss, BLAS",
        entries={
            "faiss, BLAS": entry("faiss-blas"),
            "faiss": entry("faiss"),
            "numpy": entry("numpy"),
            "torch": entry("torch"),
            "jax, top_k": ours("top_k"),
            "jaxrec, without jax": ours("blas"),
            "jaxrec": ours("device"),
        },
        unit="queries/s",
        units=batch,
        bars={"jaxrec": 1.0},
        also=tuple(Against("jaxrec", best, 1.0) for best in ("numpy", "torch", "jax, top_k")),
    )


RACES = (
    _tenants(
        "tenants-head",
        "decoding through the preference head: each row's own p as conditional norm and first-token offset",
        "tenants_head",
        bar=0.98,
        merged=False,
    ),
    _tenants(
        "tenants-head-lora",
        "the same, with a LoRA of rank 4 on all sites of the head",
        "tenants_head",
        bar=None,
        merged=False,
        lora_rank=4,
    ),
    Race(
        name="head",
        about="64 tokens by the preference head (the backbone read once) against 64 by the backbone itself",
        base="jaxrec, backbone",
        entries={
            "jaxrec, backbone": Entry(f"{JAX}tenants_head", "backbone"),
            "jaxrec, head with 16 tenants": Entry(f"{JAX}tenants_head", "distinct"),
        },
        unit="tokens/s",
        units=TOKENS,
    ),
    _tenants(
        "tenants-lora-qv",
        "decoding through the backbone: LoRA of rank 8 on q and v, made from each row's own p",
        "tenants_lora",
        bar=0.88,
        merged=True,
        sites="q|v",
    ),
    _tenants(
        "tenants-lora-all",
        "the same on all seven sites",
        "tenants_lora",
        bar=0.88,
        merged=True,
        sites=".*",
    ),
    Race(
        name="adapters",
        about="16 LoRAs (rank 16, seven sites) in one batch against PEFT adapter_names",
        base="peft, 16 adapters",
        entries={
            "peft, 16 adapters": Entry(
                f"{TORCH}decode", options={"adapters": 16}, environment="peers"
            ),
            "peft, one adapter": Entry(
                f"{TORCH}decode", options={"adapters": 1}, environment="peers"
            ),
            "jaxrec, 16 LoRAs": Entry(f"{JAX}decode", options={"adapters": 16}),
        },
        unit="tokens/s",
        units=TOKENS,
        bars={"jaxrec, 16 LoRAs": 5.0},
        rounds=5,
    ),
    _generate(1),
    _generate(16),
    Race(
        name="sft",
        about="a LoRA training step (rank 16, seven sites, AdamW, fp32) on 8 x 256 tokens",
        base="torch + peft",
        entries={
            "torch + peft": Entry(f"{TORCH}sft", environment="peers"),
            "torch.compile + peft": Entry(
                f"{TORCH}sft", options={"compiled": True}, environment="peers"
            ),
            "jaxrec": Entry(f"{JAX}sft"),
        },
        unit="tokens/s",
        units=8 * 256,
        bars={"jaxrec": 1.0},
        also=(Against("jaxrec", "torch.compile + peft"),),
    ),
    Race(
        name="read",
        about="shuffled rows of tokens from disk, batches of 8 x 256, one thread ahead: 64 batches",
        base="grain, ArrayRecord",
        entries={
            "grain, ArrayRecord": Entry(PEERS_READING, environment="peers"),
            "datasets, streaming": Entry(
                PEERS_READING, options={"engine": "datasets"}, environment="peers"
            ),
            "jaxrec": Entry(f"{JAX}reading"),
        },
        unit="tokens/s",
        units=64 * 8 * 256,
    ),
    Race(
        name="first-step",
        about="a new process until its first LoRA step of 8 x 256 tokens can begin (imports, weights, tracing,"
        " compilation), with an empty compilation cache (limit: 10 s) and with one that an earlier process filled"
        " (3 s); and until that step has been taken, as the peer's, who compiles nothing",
        base="torch + peft, step taken",
        entries={
            "torch + peft, step taken": Entry(f"{TORCH}first", environment="peers"),
            "jaxrec, cold, ready": Entry(f"{JAX}first"),
            "jaxrec, warm, ready": Entry(f"{JAX}first", options={"cache": "warm"}),
            "jaxrec, cold, step taken": Entry(f"{JAX}first", options={"until": "taken"}),
            "jaxrec, warm, step taken": Entry(
                f"{JAX}first", options={"cache": "warm", "until": "taken"}
            ),
        },
        unit="s",
        units=1,
        limits={"jaxrec, cold, ready": 10.0, "jaxrec, warm, ready": 3.0},
        rounds=5,
    ),
    Race(
        name="qlora",
        about="QLoRA (rank 16, seven sites, AdamW; layers and head quantised, fp32 compute) on 8 x 256 tokens against"
        " LoRA on the same weights in fp32",
        base="jaxrec, LoRA in fp32",
        entries={
            "jaxrec, LoRA in fp32": Entry(f"{JAX}qlora", options={"stored": "floats"}),
            "jaxrec, nf4": Entry(f"{JAX}qlora"),
            "jaxrec, int8": Entry(f"{JAX}qlora", options={"kind": "int8"}),
        },
        unit="tokens/s",
        units=8 * 256,
        bars={"jaxrec, nf4": 0.67},
    ),
    Race(
        name="dpo",
        about="a DPO step (LoRA as above) on 8 pairs of 256 tokens, 192 of them the answer",
        base="trl",
        entries={
            "trl": Entry(f"{TORCH}dpo", environment="peers"),
            "trl, reference given": Entry(
                f"{TORCH}dpo", options={"reference": "batch"}, environment="peers"
            ),
            "jaxrec": Entry(f"{JAX}dpo"),
            "jaxrec, reference given": Entry(f"{JAX}dpo", options={"reference": "batch"}),
        },
        unit="pairs/s",
        units=8,
        bars={"jaxrec": 1.0},
        also=(Against("jaxrec, reference given", "trl, reference given"),),
    ),
    Race(
        name="sft-mix",
        about=f"LoRA fine-tuning (rank 16, seven sites, AdamW, fp32) on {mix.EXAMPLES} dialogues of sgd of all lengths;"
        " tokens are real ones, padding is not counted",
        base="torch + peft, grouped by length",
        entries={
            "torch + peft, grouped by length": Entry(f"{TORCH}mix", environment="peers"),
            "torch + peft, padded": Entry(
                f"{TORCH}mix", options={"layout": "padded"}, environment="peers"
            ),
            "torch + peft, packed": Entry(
                f"{TORCH}mix", options={"layout": "packed"}, environment="peers"
            ),
            "jaxrec, packed": Entry(f"{JAX}mix"),
        },
        unit="tokens/s",
        units=mix.TOKENS,
        bars={"jaxrec, packed": 1.2},
        also=tuple(
            Against("jaxrec, packed", f"torch + peft, {layout}") for layout in ("padded", "packed")
        ),
        rounds=5,
    ),
    Race(
        name="grpo",
        about="GRPO: 16 texts of 64 tokens to 4 prompts, KL to the reference, and one update of a LoRA (rank 16), fp32",
        base="trl + peft",
        entries={
            "trl + peft": Entry(f"{TORCH}grpo", environment="peers"),
            "jaxrec": Entry(f"{JAX}grpo"),
        },
        unit="samples/s",
        units=rollouts.ROWS,
        bars={"jaxrec": 2.0},
        rounds=5,
    ),
    Race(
        name="encode",
        about="MiniLM sentence vectors of 512 short texts, fp32, tokenising included; the bar is the faster of the two",
        base="sentence-transformers",
        entries={
            "sentence-transformers": Entry(f"{TORCH}encode", environment="peers"),
            "onnxruntime": Entry(
                f"{TORCH}encode", options={"engine": "onnxruntime"}, environment="peers"
            ),
            "jaxrec": Entry(f"{JAX}encode"),
        },
        unit="texts/s",
        units=512,
        bars={"jaxrec": 1.0},
        also=(Against("jaxrec", "onnxruntime", 1.0),),
    ),
    *_real_model("smollm2"),
    *_real_model("gemma3"),
    Race(
        name="smollm2-sft",
        about="a LoRA training step of SmolLM2-135M (rank 16, seven sites, AdamW, fp32) on 4 x 256 tokens",
        base="torch + peft",
        entries={
            "torch + peft": Entry(
                f"{TORCH}sft", options={"size": "smollm2", "batch": 4}, environment="peers"
            ),
            "jaxrec": Entry(f"{JAX}sft", options={"size": "smollm2", "batch": 4}),
        },
        unit="tokens/s",
        units=4 * 256,
        bars={"jaxrec": 1.0},
        rounds=5,
        model="smollm2",
    ),
    Race(
        name="encode-mpnet",
        about="MPNet sentence vectors of 96 short texts, tokenising included; the bar is the faster of the two peers",
        base="sentence-transformers",
        entries={
            "sentence-transformers": Entry(
                f"{TORCH}encode", options={"model": "mpnet", "count": 96}, environment="peers"
            ),
            "onnxruntime": Entry(
                f"{TORCH}encode",
                options={"engine": "onnxruntime", "model": "mpnet", "count": 96},
                environment="peers",
            ),
            "jaxrec": Entry(f"{JAX}encode", options={"model": "mpnet", "count": 96}),
            "jaxrec, bf16": Entry(
                f"{JAX}encode", options={"model": "mpnet", "count": 96, "weights": "bfloat16"}
            ),
        },
        unit="texts/s",
        units=96,
        bars={"jaxrec": 1.0},
        also=(
            Against("jaxrec", "onnxruntime", 1.0),
            Against("jaxrec, bf16", "onnxruntime"),
        ),
        loose={"jaxrec, bf16": 0.05},
        rounds=5,
        model="mpnet",
    ),
    Race(
        name="start",
        about="a new process: import of jaxrec, and --help of a training script (limit: 2 s)",
        base="import peft",
        entries={
            "import peft": Entry(f"{TORCH}start", environment="peers"),
            "jaxrec, import": Entry(f"{JAX}start", "import"),
            "jaxrec, --help": Entry(f"{JAX}start", "help"),
        },
        unit="s",
        units=1,
        limits={"jaxrec, import": 2.0, "jaxrec, --help": 2.0},
        rounds=5,
    ),
    Race(
        name="deepmf",
        about=f"DeepMF, {ratings.STEPS} steps of {ratings.BATCH} ratings, 60,000 people and 20,000 items",
        base="torch SparseAdam",
        entries={
            "torch SparseAdam": Entry(f"{TORCH}deepmf", environment="peers"),
            "torch Adam, fused": Entry(
                f"{TORCH}deepmf", options={"optimizer": "fused"}, environment="peers"
            ),
            "jaxrec": Entry(f"{JAX}deepmf"),
        },
        unit="ratings/s",
        units=ratings.STEPS * ratings.BATCH,
        bars={"jaxrec": 3.0},
    ),
    Race(
        name="sasrec",
        about="SASRec, full cross-entropy, dropout 0.5: an epoch over Beauty",
        base="torch, by length",
        entries={
            "torch, by length": Entry(f"{TORCH}sasrec", environment="peers"),
            "recbole": Entry("bench.race.recbole_sasrec", environment="recbole"),
            "jaxrec": Entry(f"{JAX}sasrec"),
        },
        unit="s",
        units=1,
        bars={"jaxrec": 2.0},
        also=(Against("jaxrec", "recbole", 3.0),),
        rounds=5,
    ),
    Race(
        name="sasrec-step",
        about=f"one step of the same on {beauty.FULL} full histories of {beauty.LENGTH} predictions",
        base="torch",
        entries={
            "torch": Entry(f"{TORCH}sasrec", options={"what": "step"}, environment="peers"),
            "jaxrec": Entry(f"{JAX}sasrec", options={"what": "step"}),
        },
        unit="steps/s",
        units=1,
        bars={"jaxrec": 1.0},
    ),
    _search(1),
    _search(64),
    Race(
        name="code-beam",
        about="next items by semantic ids, 50 beams, 12,000 items: a trie on the device against one of Python dicts",
        base="Python trie",
        entries={
            "Python trie": Entry(f"{JAX}beam", "python"),
            "jaxrec": Entry(f"{JAX}beam"),
        },
        unit="users/s",
        units=jax_beam.PEOPLE,
    ),
)
