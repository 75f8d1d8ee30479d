"""Floor 3: models of the Hugging Face hub in and out: `load`, `save`, `Tokenizer`."""

from jaxrec.hub.config import ModelError, ModelMissing, family_of, from_hf, read_config, to_hf
from jaxrec.hub.minilm import minilm
from jaxrec.hub.peft import load_peft, save_peft
from jaxrec.hub.peft_config import PeftError
from jaxrec.hub.tokenizer import Tokenizer, pad
from jaxrec.hub.weights import check_vocabulary, find, load, model_of, save, shapes_of

__all__ = [
    "ModelError",
    "ModelMissing",
    "PeftError",
    "Tokenizer",
    "check_vocabulary",
    "family_of",
    "find",
    "from_hf",
    "load",
    "load_peft",
    "minilm",
    "model_of",
    "pad",
    "read_config",
    "save",
    "save_peft",
    "shapes_of",
    "to_hf",
]
