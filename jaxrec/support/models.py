"""A base model with a change of one kind: `LoRAModel`, `AdapterModel`, and `PEFTModel` for every kind by its name."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxrec import mesh
from jaxrec.assistant.completion import ModelCompletion
from jaxrec.config import RunError
from jaxrec.delta import DeltaConfig, method
from jaxrec.dialogue.prompts import Generation, Prompt
from jaxrec.mesh import MeshConfig
from jaxrec.models.language.tuned_folder import Tuned, load_tuned, save_model, save_tuned
from jaxrec.support.settings import Config


class PEFTModel:
    """A frozen base and what is trained of it. Weights are read when they are first needed.

    config: of the specification. technique: "lora", "dora", "rslora", "adapter", "adapter_mlp", "prefix", "prompt",
    "ia3", "norm", "attn_bias" (their sizes are `delta.METHODS`'), or "full". delta: sizes of one's own, in place of
    that. A fresh change is the identity: an untrained model answers as its base does.
    """

    def __init__(
        self,
        config: Config | None = None,
        technique: str = "lora",
        delta: DeltaConfig | None = None,
    ):
        self.config, self.technique = config or Config(), technique
        self.spec = method(technique) if delta is None else delta
        self.dropout = 0.0
        self._tuned: Tuned | None = None

    @functools.cached_property
    def devices(self) -> jax.sharding.Mesh:
        """Where the weights lie: all devices."""
        return mesh.make(MeshConfig())

    @property
    def tuned(self) -> Tuned:
        """The loaded model. Raises what `load_tuned` raises for one that is not there."""
        if self._tuned is None:
            cfg = self.config.model
            found = load_tuned(
                cfg.name,
                cfg.adapter,
                devices=self.devices,
                quantise=cfg.quantise,
                dtype=self.config.training.dtype,
            )
            fresh = "delta" not in found.tree
            self._tuned = found.with_delta(self.spec, cfg.seed, self.devices) if fresh else found
            self.spec = self._tuned.spec
        return self._tuned

    @tuned.setter
    def tuned(self, tuned: Tuned) -> None:
        self._tuned = tuned
        self.__dict__.pop("completion", None)

    @functools.cached_property
    def completion(self) -> ModelCompletion:
        """What writes its texts."""
        cfg = self.config.model
        how = Generation(
            cfg.max_new_tokens, cfg.temperature, cfg.top_p, cfg.repetition_penalty, stop=()
        )
        return ModelCompletion(self.tuned, how, self.config.training.rows)

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """A text to each prompt."""
        return self.completion(prompts, self.config.model.seed)

    def trainable_share(self) -> float:
        """The part of all weights that trains: 1 where the base itself does."""
        count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
        tree = self.tuned.tree
        own = count(tree.get("delta", {}))
        return own / (count(tree["backbone"]) + own) if own else 1.0

    def save_model(self, folder: str | Path) -> None:
        """Writes what was trained, so that `ModelConfig(name=FOLDER)` finds it: an adapter that names its base, or, of
        the technique "full", a whole Hugging Face folder."""
        tuned = self.tuned
        if "delta" not in tuned.tree:
            save_model(folder, tuned.cfg, tuned.tree["backbone"], tuned.base)
            return
        if Path(folder).resolve() == Path(tuned.base).expanduser().resolve():
            raise RunError(f"{folder} holds the base itself: name another folder")
        save_tuned(
            folder,
            tuned.tree,
            cfg=tuned.cfg,
            base=tuned.base,
            spec=tuned.spec,
            hashed=tuned.base_hash,
            facts={"stage": "support", "technique": self.technique},
        )


class LoRAModel(PEFTModel):
    """A base with a LoRA of `config.lora`."""

    def __init__(self, config: Config | None = None):
        config = config or Config()
        super().__init__(config, "lora", config.lora.delta)
        self.dropout = config.lora.dropout


class AdapterModel(PEFTModel):
    """A base with adapters of `config.adapter`."""

    def __init__(self, config: Config | None = None):
        config = config or Config()
        super().__init__(config, "adapter", config.adapter.delta)
