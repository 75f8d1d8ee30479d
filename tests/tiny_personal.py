"""A personal model of toy size with random weights, and batches for it: no compilation is needed to make them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.delta import DeltaConfig
from jaxrec.models.personal.heads import HeadConfig
from jaxrec.models.personal.lfe import LFEConfig
from jaxrec.models.personal.personal_lm import PersonalConfig, PersonalLM
from jaxrec.models.personal.profile import Evidence, ProfileEncoder, ProfileEncoderConfig
from jaxrec.nn.decoder import Decoder, DecoderConfig
from jaxrec.structs import Tokens, Turns

# Half the time to compile; how fast such small programs run does not matter.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VOCAB, D_Z, D_P = 40, 8, 6
DECODER = DecoderConfig(vocab=VOCAB, d_model=16, layers=2, heads=2, groups=1, head_dim=8, d_ff=24)
PERSONAL = PersonalConfig(
    lfe=LFEConfig(d_z=D_Z, top_k=2),
    head=HeadConfig(vocab=VOCAB, d_model=16, layers=2, heads=2, groups=1, d_ff=24, d_z=D_Z),
    p_enters=DeltaConfig(embed=True, norm=True, lora_rank=2, lora_sites="q|cross_v"),
    d_p=D_P,
    hyper_width=8,
)
LM = PersonalLM(Decoder(DECODER), PERSONAL)
ENCODER = ProfileEncoder(ProfileEncoderConfig(d_z=D_Z, d_p=D_P, width=8, queries=2, heads=2))


def random_like(init, *args, seed: int = 0) -> dict:
    """Random numpy weights of the shapes that `init` would give, as large as after training; norms stay near one."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        scale = 0.5 if x.ndim > 1 else 0.2
        centre = 1.0 if getattr(path[-1], "key", "") == "scale" else 0.0
        return (centre + rng.normal(scale=scale, size=x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(init, *args))


def backbone(seed: int = 0) -> dict:
    """Weights of a decoder of `DECODER`."""
    ids = jnp.zeros((1, 2), jnp.int32)
    return random_like(LM.backbone.init, jax.random.key(0), ids, seed=seed)["params"]


def params(seed: int = 1) -> dict:
    """Weights of every part: backbone, lfe, head, hypernet, encoder."""
    encoder = random_like(ENCODER.init, jax.random.key(0), evidence(1, 2), seed=seed)["params"]
    own = random_like(LM.init, jax.random.key(0), seed=seed)
    return {"backbone": backbone(), "encoder": encoder, **own}


def tokens(rng: np.random.Generator, rows: int, length: int) -> Tokens:
    """Random rows of various lengths; every real token but the first is predicted."""
    real = rng.integers(length // 2, length + 1, rows)
    mask = np.arange(length)[None, :] < real[:, None]
    loss = (mask & (np.arange(length) > 0)[None, :]).astype(np.float32)
    ids = np.where(mask, rng.integers(16, VOCAB, mask.shape), 0)
    return Tokens(ids.astype(np.int32), mask, loss)


def evidence(rows: int, size: int, seed: int = 0) -> Evidence:
    """Random evidence, of which all is there."""
    rng = np.random.default_rng(seed)
    return Evidence(
        rng.normal(size=(rows, size, D_Z)).astype(np.float32),
        rng.integers(0, 3, (rows, size)).astype(np.int32),
        rng.integers(-1, 2, (rows, size)).astype(np.float32),
        np.ones((rows, size), bool),
    )


def turns(tenants: list[int], seed: int = 0) -> Turns:
    """A question, an answer and evidence for each of these tenants."""
    rng, rows = np.random.default_rng(seed), len(tenants)
    question, answer = tokens(rng, rows, 6), tokens(rng, rows, 8)
    return Turns(question, answer, np.array(tenants, np.int32), evidence(rows, 6, seed))
