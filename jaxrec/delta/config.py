"""Floor 1: which changes one wants of a model, in words: `DeltaConfig`, and the methods of the literature by name."""

import dataclasses
import difflib

from jaxrec.config import RunError


class DeltaError(RunError, ValueError):
    """A delta that the model or the method cannot have: an unknown method, a pattern that names nothing."""


@dataclasses.dataclass(frozen=True)
class DeltaConfig:
    """Which changes, and how large. A size of 0 (or False) leaves that kind out; several kinds combine.

    LoRA (Hu 2021), by option rank-stabilised (rsLoRA, Kalajdzievski 2023) and with a magnitude (DoRA, Liu 2024);
    adapters (Houlsby 2019, Pfeiffer 2021), prefixes (Li 2021), a soft prompt (Lester 2021), IA3 (Liu 2022),
    conditional norms, biases on attention scores, an offset of the first token, a LoRA on the output head.
    """

    lora_rank: int = 0
    lora_alpha: float = 16.0  # the delta is scaled by alpha / rank
    lora_rs: bool = False  # rsLoRA: by alpha / sqrt(rank)
    lora_dora: bool = False  # a magnitude for each output column (not on the head)
    lora_sites: str = ".*"  # full-match pattern over sites, e.g. "q|v"
    adapter_size: int = 0
    adapter_sites: str = ".*"  # "attn|mlp" (Houlsby) or "mlp" (Pfeiffer)
    prefix_length: int = 0
    prefix_gate: bool = True  # False: no gate, as PEFT; then it is not the identity at the start
    norm: bool = False
    scale: bool = False
    scale_sites: str = "k|v|hidden"  # IA3's own; "hidden" is what enters the MLP's last matrix
    attn_bias: bool = False
    distance_buckets: int = 32
    memory_segments: int = 2
    prompt_length: int = 0
    embed: bool = False
    head_rank: int = 0
    stacks: str = ".*"  # full-match pattern over stacks, e.g. "stack_1" for the top layers

    @property
    def empty(self) -> bool:
        """Whether nothing is changed, as with the defaults."""
        kinds = (self.norm, self.scale, self.attn_bias, self.embed)
        sizes = (self.lora_rank, self.adapter_size, self.prefix_length, self.prompt_length)
        return not any((*kinds, *sizes, self.head_rank))

    def scaling(self, rank: int) -> float:
        """What a LoRA of this rank is multiplied by."""
        # alpha / rank makes the change smaller the higher the rank is, so that high ranks learn no more than low
        # ones; alpha / sqrt(rank) keeps its size (Kalajdzievski 2023).
        return self.lora_alpha / (rank**0.5 if self.lora_rs else rank)

    def __post_init__(self):
        sizes = (
            self.lora_rank,
            self.adapter_size,
            self.prefix_length,
            self.prompt_length,
            self.head_rank,
        )
        if min(sizes) < 0:
            raise ValueError(f"delta sizes must not be negative: {self}")
        if self.lora_dora and not self.lora_rank:
            raise ValueError("lora_dora is a property of a LoRA: set lora_rank too")


_LORA = DeltaConfig(lora_rank=16, lora_alpha=32.0, lora_sites="q|k|v|o")

METHODS: dict[str, DeltaConfig] = {
    "full": DeltaConfig(),  # no delta: the weights themselves are trained
    "lora": _LORA,
    "rslora": dataclasses.replace(_LORA, lora_rs=True),
    "dora": dataclasses.replace(_LORA, lora_dora=True),
    "adapter": DeltaConfig(adapter_size=32, adapter_sites="attn|mlp"),
    "adapter_mlp": DeltaConfig(adapter_size=32, adapter_sites="mlp"),
    "prefix": DeltaConfig(prefix_length=16),
    "prompt": DeltaConfig(prompt_length=16),
    "ia3": DeltaConfig(scale=True),
    "norm": DeltaConfig(norm=True),
    "attn_bias": DeltaConfig(attn_bias=True),
}


def choose(name: str, own: DeltaConfig) -> DeltaConfig:
    """Sizes of one's own where there are any, else those of the method `name`."""
    return method(name) if own.empty else own


def method(name: str) -> DeltaConfig:
    """The DeltaConfig of a method by its name; that of "full" is empty. Raises DeltaError for an unknown name."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(METHODS)}"
        raise DeltaError(f"there is no tuning method {name!r}; {hint}")
    return METHODS[name]
