"""What fits on which TPU slice, cut how, and what it sends: the stages over Qwen2.5's shapes, compiled without a TPU.

    pip install '.[aot]'                                        libtpu, 0.7 GB ('.[gpu]' for the rows of h100)
    python -m eval.fit configs/bench/fit_tpu.py                 all rows, resumable
    python -m bench.report docs/tpu.md                          and their table

Cost: two to four minutes of one core and up to 6 GB of memory a row; on a busy machine three times as long. Numbers:
docs/tpu.md. Rows with limits that were set beforehand come first.
"""

from jaxrec.eval.fit import FitConfig
from jaxrec.eval.fit_rows import Row
from jaxrec.mesh import MeshConfig

FSDP = MeshConfig(1, -1, 1)


def mesh(data: int, fsdp: int, tensor: int) -> MeshConfig:
    """The mesh data x fsdp x tensor."""
    return MeshConfig(data, fsdp, tensor)


config = FitConfig(
    table=(
        Row("sft_lora", "7b", "v5e:4x4", FSDP, rows=32),
        Row("sft_full", "7b", "v5e:8x8", FSDP, rows=64),
        Row("sft_nf4", "72b", "v5e:8x8", FSDP, rows=64),
        Row("sft_full", "7b", "v5p:4x4x4", FSDP, rows=256),
        Row("decode_lora", "7b", "v5e:4x4", mesh(4, 1, 4), rows=64),
        Row("sft_lora", "7b", "v5e:4x4", mesh(1, 4, 4), rows=32),
        Row("retrofit", "7b", "v5e:4x4", FSDP, rows=64, length=256),
        Row("universal", "7b", "v5e:4x4", FSDP, rows=64, length=256),
        Row("decode_person", "7b", "v5e:4x4", mesh(4, 1, 4), rows=64),
        Row("dpo", "7b", "v5e:4x4", FSDP, rows=16),
        Row("ppo_update", "7b", "v5e:4x4", FSDP, rows=16),
        Row("ppo_rollout", "7b", "v5e:4x4", mesh(4, 1, 4), rows=64),
        Row("pretrain", "0.5b", "v5e:4x4", FSDP, rows=32),
        Row("hstu", "1m-items", "v5e:4x4", FSDP, rows=256, length=256),
        Row("tiger", "1m-items", "v5e:4x4", mesh(16, 1, 1), rows=4096, length=20),
        Row("sft_lora", "0.5b", "v5e:4x4", mesh(16, 1, 1), rows=64, remat="none"),
        Row("sft_lora", "72b", "v5p:4x4x4", FSDP, rows=64),
        Row("sft_full", "0.5b", "v5e:4x4", FSDP, rows=64),
        Row("sft_nf4", "7b", "v5e:4x4", FSDP, rows=32),
        Row("sft_full", "7b", "v5e:4x4", FSDP, rows=16),
        Row("universal_inside", "7b", "v5e:4x4", FSDP, rows=64, length=256),
        Row("sft_nf4", "72b", "v5e:8x8", mesh(1, 16, 4), rows=64),
        Row("sft_full", "72b", "v5p:4x4x4", FSDP, rows=64),
        Row("sft_lora", "0.5b", "v5e:4x4", FSDP, rows=64, remat="none"),
        Row("sft_lora", "7b", "v5e:4x4", FSDP, rows=32, remat="none"),
        Row("sft_full", "7b", "v5p:4x4x4", mesh(4, 16, 1), rows=256),
        Row("sft_lora", "7b", "v5e:8x8", mesh(4, 16, 1), rows=128),
        Row("sft_full", "7b", "v5e:8x8", mesh(1, 16, 4), rows=64),
        Row("sft_full", "0.5b", "v5e:8x8", mesh(64, 1, 1), rows=256),
        Row("sft_nf4", "0.5b", "v5e:4x4", mesh(16, 1, 1), rows=64),
        Row("sft_full", "72b", "v5e:8x8", FSDP, rows=64),
        # The GPUs of one host, of the same kind of description: no GPU is there either.
        Row("sft_lora", "7b", "h100:8", FSDP, rows=16),
        Row("sft_full", "7b", "h100:8", FSDP, rows=16),
        Row("sft_nf4", "72b", "h100:8", FSDP, rows=24),
        Row("decode_lora", "7b", "h100:8", mesh(2, 1, 4), rows=64),
        Row("sft_lora", "7b", "h100:8", mesh(1, 2, 4), rows=16),
        Row("dpo", "7b", "h100:8", FSDP, rows=8),
        Row("ppo_update", "7b", "h100:8", FSDP, rows=16),
        Row("ppo_rollout", "7b", "h100:8", mesh(2, 1, 4), rows=64),
        Row("retrofit", "7b", "h100:8", FSDP, rows=64, length=256),
        Row("universal", "7b", "h100:8", FSDP, rows=64, length=256),
        Row("universal_inside", "7b", "h100:8", FSDP, rows=64, length=256),
        Row("decode_person", "7b", "h100:8", mesh(2, 1, 4), rows=64),
        Row("pretrain", "0.5b", "h100:8", FSDP, rows=64),
        Row("hstu", "1m-items", "h100:8", FSDP, rows=256, length=256),
        Row("tiger", "1m-items", "h100:8", mesh(8, 1, 1), rows=4096, length=20),
    )
)
