"""Floor 5: customer support under the names of its specification; what is behind each name: docs/support.md.

from jaxrec.support import Config, InferencePipeline, LoRAModel

model = LoRAModel(Config())                                  # SmolLM2 by name; any folder by ModelConfig(name=...)
pipeline = InferencePipeline(model, Config())
pipeline.add_few_shot_example("How do I change my password?", "Go to Settings > Security > Change Password")
print(pipeline.generate_response("How do I reset my account?", strategy="few_shot"))
"""

from jaxrec.support.inference import InferencePipeline, Response
from jaxrec.support.models import AdapterModel, LoRAModel, PEFTModel
from jaxrec.support.settings import (
    AdapterConfig,
    Config,
    DataConfig,
    LoRAConfig,
    ModelConfig,
    PromptConfig,
    TrainingConfig,
)
from jaxrec.support.training import DataLoader, TokenRows, TrainingPipeline

__all__ = [
    "AdapterConfig",
    "AdapterModel",
    "Config",
    "DataConfig",
    "DataLoader",
    "InferencePipeline",
    "LoRAConfig",
    "LoRAModel",
    "ModelConfig",
    "PEFTModel",
    "PromptConfig",
    "Response",
    "TokenRows",
    "TrainingConfig",
    "TrainingPipeline",
]
