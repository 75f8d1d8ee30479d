"""A row of the table of fits: which stage of which shape, on which slice, cut how; and the shapes by name."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from jaxrec.eval.fit_slices import FitError, mesh_in, nearest
from jaxrec.mesh import MeshConfig

STAGES = {
    "sft_lora": "LoRA r 16 on q, k, v, o over bf16 weights",
    "sft_nf4": "the same over NF4 weights (QLoRA)",
    "sft_full": "full fine-tuning, f32 weights, AdamW",
    "pretrain": "next token over whole rows, f32 weights, AdamW",
    "dpo": "DPO by LoRA; rows are pairs; the reference is the backbone without it",
    "ppo_update": "PPO's update by LoRA with a value head; half of a row is the prompt",
    "ppo_rollout": "a token of PPO's rollout: the policy's one LoRA for all rows",
    "retrofit": "Z by distillation, spans, contrast and routing; the backbone is its own teacher",
    "universal": "one head for many tenants, A(p) and the profile encoder over the frozen backbone",
    "universal_inside": "the same, A(p) changing the backbone's own top quarter",
    "decode_lora": "a token of decoding, each row with a LoRA of its own",
    "decode_person": "a token of decoding, each row by what A(p) makes for the backbone's top quarter",
    "hstu": "HSTU, softmax over all items; length is the history's",
    "tiger": "TIGER over three codes an item; length is the history's, in items",
}
SHAPES: Mapping[str, dict[str, Any]] = {
    # Qwen2.5, as published in its configs
    "0.5b": {"vocab": 151936, "d_model": 896, "layers": 24, "heads": 14, "groups": 2, "head_dim": 64, "d_ff": 4864,
             "tied": True},
    "7b": {"vocab": 152064, "d_model": 3584, "layers": 28, "heads": 28, "groups": 4, "head_dim": 128, "d_ff": 18944},
    "72b": {"vocab": 152064, "d_model": 8192, "layers": 80, "heads": 64, "groups": 8, "head_dim": 128, "d_ff": 29568},
    "tiny": {"vocab": 512, "d_model": 128, "layers": 4, "heads": 4, "groups": 4, "head_dim": 32, "d_ff": 256},
}  # fmt: skip
# Of recommenders a shape is a catalogue and a width.
CATALOGUES: Mapping[str, dict[str, int]] = {
    "1m-items": {"items": 1_000_000, "d_model": 256, "layers": 8, "heads": 8, "head_dim": 32},
    "10k-items": {"items": 10_000, "d_model": 64, "layers": 2, "heads": 2, "head_dim": 32},
}
RECOMMENDERS = ("hstu", "tiger")
HALVED = ("retrofit", "universal", "universal_inside")  # a row is two texts of half its length
RANK, SITES = 16, ("q", "k", "v", "o")  # of every LoRA
D_Z, TOP_K, D_P, HEAD_WIDTH = (
    512,
    3,
    128,
    1024,
)  # of personal models: Z, states that it joins, p, a head


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: what is compiled."""

    stage: str  # one of STAGES
    shape: str  # of the backbone: 0.5b, 7b, 72b, tiny; of a recommender: 1m-items, 10k-items
    topology: str  # of the slice, as v5e:4x4
    mesh: MeshConfig = MeshConfig(data=1, fsdp=-1)
    rows: int = 16  # of the whole batch
    length: int = (
        1024  # tokens a row; decoding: slots of the cache; a recommender: items of a history
    )
    accum: int = 1
    remat: Literal["none", "full", "dots"] = "full"

    @property
    def name(self) -> str:
        """By which `--rows` finds it, and its file."""
        sizes = "x".join(str(n) for n in mesh_in(self.topology, self.mesh))
        slice_ = self.topology.replace(":", "-")
        more = f"-accum{self.accum}" if self.accum > 1 else ""
        remat = "" if self.remat == "full" else f"-remat-{self.remat}"
        return f"{self.stage}-{self.shape}-{slice_}-{sizes}-{self.rows}x{self.length}{more}{remat}"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(data, fsdp, tensor)."""
        return mesh_in(self.topology, self.mesh)

    def check(self) -> None:
        """Raises FitError, in one line, for what cannot be compiled whatever the compiler says."""
        shapes = CATALOGUES if self.stage in RECOMMENDERS else SHAPES
        for what, value, known in (("stage", self.stage, STAGES), ("shape", self.shape, shapes)):
            if value not in known:
                raise FitError(f"{what} {value!r}: {nearest(value, list(known))}")
        data, fsdp, _ = self.sizes
        groups = data * fsdp * self.accum
        if min(self.rows, self.length, self.accum) < 1 or self.rows % groups:
            raise FitError(
                f"{self.name}: {self.rows} rows do not divide by {groups} (microbatches x data x fsdp)"
            )


def to_json(row: Row) -> str:
    """A row as text, for a process of its own."""
    return json.dumps(dataclasses.asdict(row))


def from_json(text: str) -> Row:
    """`to_json` undone."""
    fields = json.loads(text)
    return Row(**{**fields, "mesh": MeshConfig(**fields["mesh"])})
