"""Z of many texts by a frozen sentence encoder, made once, kept on disk, and read by index inside a jitted step.

    texts --encoder (frozen)--> chosen layers' hidden states, side by side --> z_seq [I, L, D] (float16), mean --> z_cls

What heads train on: a batch then holds row numbers, and `Texts.at` gives the `LFEOutput` of those rows.
"""

from collections.abc import Sequence
from pathlib import Path

import flax.struct as struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrec import checkpoint
from jaxrec.files import content_hash, open_atomically
from jaxrec.hub import minilm
from jaxrec.hub.tokenizer import pad
from jaxrec.models.text.sentence import LENGTHS, own_limit, say_cut
from jaxrec.nn.encoder import Encoder, mean_pool
from jaxrec.structs import Leaf, LFEOutput


@struct.dataclass
class Texts:
    """Z of I texts; the tokens' part is absent where only `z_cls` was asked for."""

    z_cls_ID: Leaf
    z_seq_ILD: Leaf | None = None  # float16; 0 where mask is False
    mask_IL: Leaf | None = None

    def at(self, index_B: Int[Array, "*b"]) -> LFEOutput:
        """Z of the texts of these numbers; number -1 is no text: zeros, and no token."""
        there = index_B >= 0
        # -1 would read the last row: row 0 is read instead and its numbers are blanked.
        row = jnp.maximum(index_B, 0)
        z_cls = jnp.where(there[..., None], self.z_cls_ID[row], 0.0)
        if self.z_seq_ILD is None:
            return LFEOutput(None, z_cls, None)
        mask = self.mask_IL[row] & there[..., None]
        z_seq = jnp.where(mask[..., None], self.z_seq_ILD[row].astype(jnp.float32), 0.0)
        return LFEOutput(z_seq, z_cls, mask)


class TextReader:
    """A frozen encoder that was loaded once: texts to Z.

    tokens: whether each token's vector is kept beside the text's. source: of the encoder; None: MiniLM. layers: whose
    hidden states are put side by side (D = layers x width). limit: tokens after which a text is cut, which is said; at
    most the encoder's own limit. batch: texts at a time. Raises what `hub.minilm` raises.
    """

    def __init__(
        self,
        *,
        tokens: bool = False,
        source: str | None = None,
        layers: Sequence[int] = (-1,),
        limit: int = 64,
        batch: int = 32,
    ):
        self.cfg, self._params, self._tokenizer = minilm(source)
        self.tokens, self.layers, self.batch = tokens, tuple(layers), batch
        self.limit = own_limit(self.cfg, self._tokenizer, limit)

        @jax.jit
        def forward(params: dict, ids: Array, mask: Array) -> tuple[Array, Array]:
            out = Encoder(self.cfg).apply({"params": params}, ids, mask, hidden=self.layers)
            joined = jnp.concatenate(out.hidden, -1)
            return joined, mean_pool(joined, mask)

        self._forward = forward

    def mark(self, texts: Sequence[str]) -> str:
        """A hash of texts, weights and settings: what equal marks have read is equal."""
        weights = checkpoint.fingerprint(self._params)
        said = repr((list(texts), self.cfg, self.layers, self.limit, self.tokens, weights))
        return content_hash(said, digits=32)

    def __call__(self, texts: Sequence[str]) -> Texts:
        """Z of each text. Raises ValueError without texts."""
        if not len(texts):
            raise ValueError("no texts to read")
        rows, cut = self._tokenizer.encode_cut(list(texts), self.limit)
        say_cut(cut, len(rows), self.limit)
        longest = min(max(map(len, rows)), self.limit)
        width = self.cfg.d_model * len(self.layers)
        z_cls = np.zeros((len(rows), width), np.float32)
        z_seq = np.zeros((len(rows), longest, width), np.float16) if self.tokens else None
        mask_IL = np.arange(longest)[None, :] < np.array([len(r) for r in rows])[:, None]
        # By falling length: the texts of a batch are about equally long, and its first one is the longest.
        order = np.argsort([-len(r) for r in rows], kind="stable")
        for start in range(0, len(rows), self.batch):
            index = order[start : start + self.batch]
            most = len(rows[index[0]])
            # Rounded up to one of few widths, so that there are few programs.
            size = next((n for n in LENGTHS if n >= most), most)
            padded = [rows[i] for i in index] + [[]] * (self.batch - len(index))
            ids, mask = pad(padded, size, self._tokenizer.pad_id)
            made = self._forward(self._params, jnp.array(ids), jnp.array(mask))
            seq, mean = (np.asarray(x) for x in made)
            z_cls[index] = mean[: len(index)]
            if z_seq is not None:
                cut = min(size, longest)
                # The width that was computed may be more than the longest text's, for which there is room.
                z_seq[index, :cut] = np.where(mask[..., None], seq, 0.0)[: len(index), :cut]
        return Texts(z_cls, z_seq, mask_IL if self.tokens else None)


def read_texts(
    texts: Sequence[str],
    *,
    tokens: bool = False,
    source: str | None = None,
    layers: Sequence[int] = (-1,),
    limit: int = 64,
    cache: str | Path = "~/.cache/jaxrec/texts",
    batch: int = 32,
) -> Texts:
    """Z of each text by MiniLM or another BERT or MPNet, kept on disk.

    Args:
      texts: what is read.
      tokens, source, layers, limit, batch: as of `TextReader`.
      cache: a folder where Z is kept under the hash of texts, weights and settings.

    Raises ValueError without texts, and what `hub.minilm` raises.
    """
    if not len(texts):
        raise ValueError("no texts to read")
    reader = TextReader(tokens=tokens, source=source, layers=layers, limit=limit, batch=batch)
    path = Path(cache).expanduser() / f"{reader.mark(texts)}.npz"
    if not path.is_file():
        print(f"reading {len(texts):,} texts by the frozen encoder, once", flush=True)
        z = reader(texts)
        parts = {"z_cls": z.z_cls_ID}
        parts |= {"z_seq": z.z_seq_ILD, "mask": z.mask_IL} if tokens else {}
        with open_atomically(path, "wb") as file:
            np.savez(file, **parts)
    with np.load(path) as held:
        return Texts(held["z_cls"], held.get("z_seq"), held.get("mask"))


def compressed(
    z_ID: Float[np.ndarray, "I D"], seen_I: np.ndarray, most: int
) -> Float[np.ndarray, "I W"]:
    """Principal components of vectors, strongest first, found on the seen rows alone; each of spread 1 on them.

    For heads that see few people: what all texts share carries no taste, and a small head can't overfit on it.
    """
    mean, spread = z_ID[seen_I].mean(0), z_ID[seen_I].std(0) + 1e-3
    # In f64: the eigenvalues of x^T x span twice as many orders of magnitude as the components themselves.
    x_ID = ((z_ID - mean) / spread).astype(np.float64)
    # eigh gives eigenvalues rising, so the strongest components are the last columns.
    _, direction = np.linalg.eigh(x_ID[seen_I].T @ x_ID[seen_I])
    x_IW = x_ID @ direction[:, ::-1][:, :most]
    return (x_IW / (x_IW[seen_I].std(0) + 1e-6)).astype(np.float32)
