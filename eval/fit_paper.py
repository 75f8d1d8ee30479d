"""What a row of fits costs on paper: operations, bytes between a chip and its HBM, bytes between chips. No compiler.

A product of [T, D] with [D, F] takes 2 T D F operations; towards its input once more, towards its weights once more.
So a token costs a frozen layer 2 N forwards and 2 N backwards, a trained one 2 N more (Kaplan 2020, appendix B). Rows
are causal: of L x L pairs of tokens (L + 1) / 2L are looked at. A remat of "full" makes a layer's forward pass again,
all but its last product, whose result nobody asks for.

The strategy on paper, of data x fsdp x tensor: weights are gathered over fsdp at each pass that reads them, once
forwards and once backwards, once more under remat; gradients are scattered back once, and added up over data; with a
tensor axis the residual stream is added up after attention and after the MLP, once a pass; rows' ids and vectors are
exchanged where the table of tokens is cut. The least that HBM moves: weights at each pass that reads them; each
product's operands and result once; the optimiser's f32 numbers once in and once out.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

from jaxrec.eval.fit_rows import CATALOGUES, D_Z, HEAD_WIDTH, RANK, SHAPES, SITES, TOP_K, Row

BYTES = {"f32": 4.0, "bf16": 2.0, "nf4": 0.516}  # a parameter, as it lies
HALF = 2  # bytes of bf16, in which everything is computed


@dataclasses.dataclass(frozen=True)
class Work:
    """A step's work. Operations of all chips together; bytes of one chip."""

    needed: float = 0.0  # operations of the method
    again: float = 0.0  # operations that are made twice, to save memory
    moved: float = 0.0  # bytes between the chip and its HBM
    sent: float = 0.0  # bytes that it sends

    def __add__(self, other: "Work") -> "Work":
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Work(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * x for x in dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a row's batch and weights are cut."""

    data: int
    fsdp: int
    tensor: int

    @property
    def groups(self) -> int:
        """Parts of the batch."""
        return self.data * self.fsdp

    def gather(self, whole: float) -> float:
        """Bytes that a chip sends while an array cut over fsdp (and tensor) is gathered over fsdp; or scattered."""
        return whole / self.tensor * (self.fsdp - 1) / self.fsdp

    def add_up(self, whole: float, over: int) -> float:
        """Bytes that a chip sends in an all-reduce of its `whole` bytes over so many chips."""
        return 2 * whole * (over - 1) / over


def products(shape: str) -> dict[str, tuple[int, int]]:
    """{site: (D, F)} of a layer's matrices."""
    s = SHAPES[shape]
    d, f, own, keys = (
        s["d_model"],
        s["d_ff"],
        s["heads"] * s["head_dim"],
        s["groups"] * s["head_dim"],
    )
    attention = {"q": (d, own), "k": (d, keys), "v": (d, keys), "o": (own, d)}
    return attention | {"gate": (d, f), "up": (d, f), "down": (f, d)}


def layer_parameters(shape: str) -> int:
    """Of one layer's matrices."""
    return sum(a * b for a, b in products(shape).values())


def forward(shape: str, tokens: float, pairs: float, layers: int | None = None) -> float:
    """Operations of one pass through the layers: the products, and the scores and sums of attention over `pairs`."""
    s = SHAPES[shape]
    own = 2 * layer_parameters(shape) * tokens + 4 * s["heads"] * s["head_dim"] * pairs
    return own * (s["layers"] if layers is None else layers)


def causal_pairs(rows: int, length: int) -> float:
    """(query, key) pairs of causal rows."""
    return rows * length * (length + 1) / 2


def lora_operations(
    shape: str, tokens: float, passes: int, sites: tuple[str, ...] = SITES
) -> float:
    """Of the thin products of a LoRA in every layer. passes: 1 forwards, 3 with both backward ones."""
    thin = sum(sum(products(shape)[site]) for site in sites)
    return passes * 2 * RANK * thin * tokens * SHAPES[shape]["layers"]


def lora_parameters(shape: str) -> int:
    """Numbers of a row's LoRA."""
    return RANK * sum(sum(products(shape)[s]) for s in SITES) * SHAPES[shape]["layers"]


def head_size(shape: str) -> int:
    """Numbers of the output head, or the table that stands for it."""
    return SHAPES[shape]["vocab"] * SHAPES[shape]["d_model"]


# ------------------------------------------------------------------------------------------ a backbone's passes


def pass_through(
    row: Row, layout: Layout, tokens: float, length: int, kind: str, backward: str = "none", lora: bool = False,
) -> Work:  # fmt: skip
    """Forwards through all layers, and back.

    Args:
      row: shape, remat and microbatches. layout: how it is cut.
      tokens: of the whole batch. length: of a row.
      kind: of BYTES, the weights as they lie; they are gathered as codes, or as bf16.
      backward: "none", "inputs" (frozen weights) or "all". lora: one is there, and trained where there is a way back.
    """
    s, shape = SHAPES[row.shape], row.shape
    pairs = causal_pairs(round(tokens / length), length)
    ahead = forward(shape, tokens, pairs)
    ways = {"none": 0, "inputs": 1, "all": 2}[backward]
    attention = 4 * s["heads"] * s["head_dim"] * pairs * s["layers"]
    # Attention's two products have two inputs each, so its way back is twice the way ahead whatever is frozen.
    needed = ahead + ways * (ahead - attention) + (2 * attention if ways else 0)
    if lora:
        needed += lora_operations(shape, tokens, 3 if ways else 1)
    remat = row.remat == "full" and ways > 0
    down = 2 * math.prod(products(shape)["down"]) * tokens * s["layers"]
    again = ahead - down if remat else 0.0
    # bytes
    size = layer_parameters(shape) * s["layers"]
    stored = min(BYTES[kind], HALF) * size
    passes = 1 + (1 if ways else 0) + remat
    mine = tokens / layout.groups
    stream = mine * s["d_model"] * HALF
    sent = passes * row.accum * layout.gather(stored)
    # twice a pass; made again, the MLP's result is not asked for
    sums = 2 + (2 if ways else 0) + remat
    sent += sums * s["layers"] * layout.add_up(stream, layout.tensor)
    ends = sum(a + b for a, b in products(shape).values()) / layout.tensor
    moved = passes * row.accum * stored / layout.tensor
    moved += (1 + ways + remat) * mine * ends * HALF * s["layers"]
    if backward == "all":
        moved += size * 4 / layout.tensor  # the gradients, whole before they are scattered
    return Work(needed, again, moved, sent)


def head_pass(row: Row, layout: Layout, positions: float, how: str) -> Work:
    """The vocabulary's scores and what comes back from them.

    how: "asked" (scores alone), "frozen" (also the gradient of z), "trained" (also the head's, by scores made twice),
    "logits frozen" and "logits trained" (whole logits, nothing made twice).
    """
    one = 2 * head_size(row.shape) * positions
    needed = (
        one * {"asked": 1, "frozen": 2, "trained": 3, "logits frozen": 2, "logits trained": 3}[how]
    )
    again = one if how == "trained" else 0.0
    whole = head_size(row.shape) * HALF
    reads = {"asked": 1, "frozen": 2, "trained": 4, "logits frozen": 2, "logits trained": 3}[how]
    gathers = {"asked": 1, "frozen": 1, "trained": 2, "logits frozen": 2, "logits trained": 2}[how]
    mine = positions / layout.groups
    moved = reads * whole / layout.tensor + reads * mine * SHAPES[row.shape]["d_model"] * HALF
    sent = gathers * row.accum * layout.gather(whole)
    return Work(needed, again, moved, sent)


def lookup(row: Row, layout: Layout, tokens: float, trained: bool) -> Work:
    """Tokens' vectors from a table that is cut along D over fsdp: ids are gathered, vectors exchanged; and back."""
    mine = tokens / layout.groups * SHAPES[row.shape]["d_model"] * HALF
    ways = 2 if trained else 1
    return Work(moved=ways * mine, sent=ways * mine * (layout.fsdp - 1) / layout.fsdp)


def updated(layout: Layout, parameters: float, whole_gradients: bool) -> Work:
    """Gradients brought together, and AdamW over what a chip holds of the parameters.

    whole_gradients: they are scattered over fsdp (a LoRA's few are added up everywhere instead).
    """
    chips = layout.fsdp * layout.tensor
    if whole_gradients:
        sent = layout.gather(parameters * HALF)
        sent += layout.add_up(parameters * HALF / chips, layout.data)
        return Work(moved=7 * 4 * parameters / chips, sent=sent)
    return Work(
        moved=7 * 4 * parameters,
        sent=layout.add_up(parameters * HALF / layout.tensor, layout.groups),
    )


def backbone_size(shape: str) -> int:
    """All numbers of a decoder but norms and biases."""
    tables = 1 if SHAPES[shape].get("tied") else 2
    return layer_parameters(shape) * SHAPES[shape]["layers"] + tables * head_size(shape)


# ------------------------------------------------------------------------------------------ the stages


def sft_lora(row: Row, layout: Layout, kind: str = "bf16") -> Work:
    """Forwards, back to the inputs, the LoRA both ways; the head's scores and the gradient of z."""
    n = row.rows * row.length
    return (
        pass_through(row, layout, n, row.length, kind, "inputs", lora=True)
        + head_pass(row, layout, n, "frozen")
        + lookup(row, layout, n, False)
        + updated(layout, lora_parameters(row.shape), False)
    )


def sft_full(row: Row, layout: Layout, head: str = "trained") -> Work:
    """Forwards, back to the inputs and to the weights; likewise the head."""
    n = row.rows * row.length
    return (
        pass_through(row, layout, n, row.length, "f32", "all")
        + head_pass(row, layout, n, head)
        + lookup(row, layout, n, True)
        + updated(layout, backbone_size(row.shape), True)
    )


def dpo(row: Row, layout: Layout) -> Work:
    """LoRA's work on both answers of each pair, and the reference's forward pass."""
    both = dataclasses.replace(row, rows=2 * row.rows)
    n = both.rows * row.length
    asked = pass_through(both, layout, n, row.length, "bf16") + head_pass(both, layout, n, "asked")
    return sft_lora(both, layout) + asked + lookup(both, layout, n, False)


def ppo_update(row: Row, layout: Layout) -> Work:
    """LoRA's work; logits from the place before the first written token on."""
    n, written = row.rows * row.length, row.rows * (row.length - row.length // 2 + 1)
    return (
        pass_through(row, layout, n, row.length, "bf16", "inputs", lora=True)
        + head_pass(row, layout, written, "logits frozen")
        + lookup(row, layout, n, False)
        + updated(layout, lora_parameters(row.shape), False)
    )


def head_operations(row: Row, width: int, layers: int, d_ff: int, length: int) -> float:
    """Forwards and back through a generative head that borrows the backbone's vocabulary, and reads `length` places
    of Z for as many tokens: ids in, layers of self- and cross-attention and an MLP, hidden states out.
    """
    tokens, pairs = row.rows * length, causal_pairs(row.rows, length)
    layer = 2 * (6 * width**2 + 3 * width * d_ff) * tokens + 4 * width * pairs
    layer += 4 * width * D_Z * tokens + 4 * width * length * tokens
    ends = 2 * 2 * width * SHAPES[row.shape]["d_model"] * tokens
    return 3 * layers * layer + 2.5 * ends  # no gradient goes on into the table of ids


def retrofit(row: Row, layout: Layout) -> Work:
    """Four texts through the backbone up to Z, context and continuation through the teacher; two readers.

    Their scores against the vocabulary are whole logits, from which the gradient comes back.
    """
    half = row.length // 2
    n = row.rows * half
    z = pass_through(row, layout, 4 * n, half, "bf16") + lookup(row, layout, 4 * n, False)
    teacher = pass_through(row, layout, 2 * n, row.length, "bf16") + lookup(
        row, layout, 2 * n, False
    )
    scores = head_pass(row, layout, n, "asked") + head_pass(row, layout, n, "logits frozen") * 2
    # W_proj from three hidden states; forwards, and back to its weights alone.
    own = 2 * 2 * TOP_K * SHAPES[row.shape]["d_model"] * D_Z * 4 * n
    own += 2 * head_operations(row, D_Z, 1, 2 * D_Z, half)
    return z + teacher + scores + Work(needed=own)


def universal(row: Row, layout: Layout) -> Work:
    """The question through the backbone; the head of two layers reads its Z, and is scored in chunks."""
    half = row.length // 2
    n, d = row.rows * half, SHAPES[row.shape]["d_model"]
    read = pass_through(row, layout, n, half, "bf16") + lookup(row, layout, n, False)
    width = min(HEAD_WIDTH, d)
    own = 2 * TOP_K * d * D_Z * n + head_operations(row, width, 2, 3 * width, half)
    return read + head_pass(row, layout, n, "frozen") + Work(needed=own)


def universal_inside(row: Row, layout: Layout) -> Work:
    """Question and answer through the backbone, and back through its top quarter."""
    n, s = row.rows * row.length, SHAPES[row.shape]
    top = max(s["layers"] // 4, 1)
    back = pass_through(row, layout, n, row.length, "bf16", "inputs")
    ahead = pass_through(row, layout, n, row.length, "bf16")
    part = ahead * (1 - top / s["layers"]) + back * (top / s["layers"])
    return part + lookup(row, layout, n, False) + head_pass(row, layout, n // 2, "frozen")


def decode(row: Row, layout: Layout, own: int) -> Work:
    """A token of each row: weights and cache are read once. own: rows that bring a LoRA."""
    s, shape = SHAPES[row.shape], row.shape
    n = row.rows
    needed = forward(shape, n, n * row.length) + 2 * head_size(shape) * n
    needed += lora_operations(shape, n, 1)
    stored = (layer_parameters(shape) * s["layers"] + head_size(shape)) * HALF
    cache = 2 * s["groups"] * s["head_dim"] * s["layers"] * HALF * row.length * n
    moved = stored / layout.tensor + cache / layout.groups / layout.tensor
    moved += lora_parameters(shape) * HALF * max(own / layout.groups, 1)
    sent = layout.gather(stored)
    stream = n / layout.groups * s["d_model"] * HALF
    sent += 2 * s["layers"] * layout.add_up(stream, layout.tensor)
    return Work(needed, 0.0, moved, sent)


def hstu(row: Row, layout: Layout) -> Work:
    """uvqk, all pairs of places, o; forwards and back; the softmax over all items."""
    c = CATALOGUES[row.shape]
    n, width = row.rows * row.length, c["heads"] * c["head_dim"]
    per = 2 * c["d_model"] * 5 * width * n + 4 * width * row.length * n
    scores = 2 * c["items"] * c["d_model"] * n
    size = c["items"] * c["d_model"]
    moved = 7 * 4 * size / layout.fsdp + 4 * size * 4
    # the catalogue's vectors are gathered for the scores, their gradient is scattered back
    sent = 2 * layout.gather(size * 4) + lookup_items(row, layout)
    return Work(3 * per * c["layers"] + 3 * scores, 0.0, moved, sent)


def lookup_items(row: Row, layout: Layout) -> float:
    """Bytes sent while positions' item vectors are read from a table cut by row: all answers are added up."""
    mine = row.rows * row.length / layout.groups * CATALOGUES[row.shape]["d_model"] * 4
    return layout.add_up(mine, layout.fsdp)


def tiger(row: Row, layout: Layout) -> Work:
    """Encoder over the history's codes, decoder over three codes; forwards and back."""
    c = CATALOGUES[row.shape]
    d, width, deep = c["d_model"], c["heads"] * c["head_dim"], c["layers"]
    places, n = 3 * row.length + 1, row.rows
    layer = 2 * (4 * d * width + 2 * d * 4 * d)
    encoder = deep * n * (layer * places + 4 * width * places * places)
    cross = 2 * 2 * d * width * 3 + 2 * 2 * d * width * places + 4 * width * 3 * places
    decoder = deep * n * (layer * 3 + cross + 4 * width * 6)
    size = deep * (2 * (4 * d * width + 8 * d * d) + 4 * d * width) + 3 * 256 * d + 2000 * d
    scores = 2 * 256 * d * 3 * n
    ends = deep * n / layout.groups * 4 * (places * (8 * width + 10 * d))
    chips = layout.fsdp * layout.tensor
    sent = 3 * layout.gather(size * 4) + layout.add_up(size * 4 / chips, layout.data)
    return Work(3 * (encoder + decoder + scores), 0.0, 3 * ends + 28 * size / chips, sent)


_PAPER: Mapping[str, Callable[[Row, Layout], Work]] = {
    "sft_lora": sft_lora,
    "sft_nf4": lambda row, layout: sft_lora(row, layout, "nf4"),
    "sft_full": sft_full,
    "pretrain": lambda row, layout: sft_full(row, layout, "logits trained"),
    "dpo": dpo,
    "ppo_update": ppo_update,
    "ppo_rollout": lambda row, layout: decode(row, layout, 1),
    "retrofit": retrofit,
    "universal": universal,
    "universal_inside": universal_inside,
    "decode_lora": lambda row, layout: decode(row, layout, row.rows),
    "decode_person": lambda row, layout: decode(row, layout, row.rows),
    "hstu": hstu,
    "tiger": tiger,
}


def work(row: Row) -> Work:
    """What one call of the row's program costs on paper."""
    return _PAPER[row.stage](row, Layout(*row.sizes))
