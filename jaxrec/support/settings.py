"""The six configurations of the specification. Each names what it hands on; the defaults suit SmolLM2 on two cores."""

import dataclasses
from typing import Literal

from jaxrec.config import ConfigError
from jaxrec.delta import DeltaConfig


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank changes (Hu 2021): 1 - 2 % of the weights at the default rank."""

    rank: int = 16
    alpha: float = 32.0  # the change is scaled by alpha / rank
    dropout: float = 0.0  # while training
    target_modules: tuple[str, ...] = ("q", "k", "v", "o", "gate", "up", "down")  # or "all"
    rank_stabilised: bool = False  # rsLoRA
    magnitude: bool = False  # DoRA

    @property
    def delta(self) -> DeltaConfig:
        """The same as a `DeltaConfig`."""
        sites = ".*" if "all" in self.target_modules else "|".join(self.target_modules)
        return DeltaConfig(
            lora_rank=self.rank,
            lora_alpha=self.alpha,
            lora_sites=sites,
            lora_rs=self.rank_stabilised,
            lora_dora=self.magnitude,
        )


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Bottlenecks behind sublayers: 2 - 5 % of the weights at the default size."""

    size: int = 96
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"  # behind attention and MLP, or the MLP

    @property
    def delta(self) -> DeltaConfig:
        """The same as a `DeltaConfig`."""
        sites = "attn|mlp" if self.placement == "houlsby" else "mlp"
        return DeltaConfig(adapter_size=self.size, adapter_sites=sites)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The base model, and how texts are sampled from it."""

    name: str = "smollm2"  # a folder, GGUF file, published name or hub id
    adapter: str = ""  # an adapter's folder, ours or of PEFT, to go on from or to answer with
    quantise: Literal["", "nf4", "int8"] = ""  # the base's kernels; nf4 and a LoRA are QLoRA
    max_new_tokens: int = 96
    temperature: float = 0.0  # 0: the likeliest words
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """What stands around a question."""

    tenant: str = ""  # whose assistant it is, as it is called
    role: str = "support"  # support, technician, sales, or one of `roles`
    roles: str = ""  # a .yaml, .json or .toml of further roles
    examples: int = 3  # few-shot examples shown
    diversity: float = 0.3  # 0: the most similar examples; 1: the most different ones
    embed: str = "words"  # how examples are compared: "words", "minilm", or a sentence encoder's folder or name
    tokens: int = 1024  # of a prompt at most; fewer where the model reads fewer


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a model is fine-tuned."""

    epochs: float = 3.0
    steps: int = 0  # in place of epochs
    lr: float = 1e-3
    warmup: int = 10  # updates
    weight_decay: float = 0.0
    rows: int = 8  # a batch
    accumulate: int = 1  # microbatches that a batch is taken in
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of the computation (mixed precision); what trains stays float32
    )
    evaluate_every: int = 20  # updates
    save_every: int = 20  # updates; a run that was stopped goes on from there
    patience: int = 3  # evaluations without an improvement that end it; 0: none does
    out: str = "runs/support"  # checkpoints and logs
    progress: bool = True


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How texts become token rows, and which of them are held out."""

    length: int = 256  # tokens a row
    validation: float = 0.1  # part of the rows
    test: float = 0.1
    seed: int = 0  # of the split
    learn: Literal["last", "all"] = "last"  # of a conversation's answers

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ConfigError(
                "validation and test are parts of the rows, and leave some to train on"
            )


@dataclasses.dataclass(frozen=True)
class Config:
    """All six."""

    lora: LoRAConfig = LoRAConfig()
    adapter: AdapterConfig = AdapterConfig()
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
