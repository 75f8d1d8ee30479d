"""What growth should cost on paper: operations, bytes moved and bytes held of one step, as functions of its sizes.

    batch, length, layers, vocabulary   a LoRA fine-tuning step of a small Llama
    tenants, rows                       a turn answered by the preference head, each row with its own p
    items                               a SASRec step, full cross-entropy over the catalogue
    table, reach                        a DeepMF update, its two tables moved by row (Adam)
    vectors                             one exact search

Only what no implementation can leave out is counted: matrix products, weights read, numbers kept for the backward pass.
Time is the roofline's (Williams 2009): the larger of operations and bytes, each over what the machine does in a second.
Curves are anchored at one measured point, so what is compared is growth.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

FLOAT = 4  # bytes
HEAD_LAYERS, LFE_LAYERS, HYPER, LORA_OF_P = 2, 3, 64, 4  # of the personal model
PROMPT, NEW = 32, 16  # tokens that a turn reads, and answers with
SAS_WIDTH, SAS_LAYERS, SAS_INNER, SAS_ROW = 64, 2, 256, 64
CHUNK = 512  # positions whose scores over a vocabulary or a catalogue are there at once
MF_WIDTH, MF_HIDDEN = 64, (64, 32)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The point through which all axes go."""

    batch: int = 4
    length: int = 128
    layers: int = 4
    vocabulary: int = 4096
    tenants: int = 1000  # people in the table that a batch of turns draws from
    rows: int = 16  # turns answered at once
    items: int = 8000  # of SASRec's catalogue
    table: int = 80_000  # people, and as many items, of DeepMF
    reach: int = 0  # the first so many of them are all that batches draw from; 0: all
    vectors: int = 80_000  # searched
    width: int = 256  # of the Llama
    inner: int = 688
    heads: int = 4
    groups: int = 2
    head_dim: int = 64
    rank: int = 16
    p_width: int = 128
    positions: int = 1536  # of a SASRec batch
    ratings: int = 1024  # of a DeepMF update
    vector_width: int = 384


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one step: floating-point operations, bytes that must move, bytes held at the worst moment."""

    flops: float
    moved: float
    held: float


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the machine does in a second: operations of a large matrix product, bytes of a large sum."""

    flops: float = 100e9
    moved: float = 10e9

    def seconds(self, cost: Cost) -> float:
        """The roofline's time."""
        return max(cost.flops / self.flops, cost.moved / self.moved)


def sites(s: Sizes) -> list[tuple[int, int]]:
    """(in, out) of the seven matrices of a Llama layer."""
    d, f, q, kv = s.width, s.inner, s.heads * s.head_dim, s.groups * s.head_dim
    return [(d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)]


def products(matrices: Sequence[tuple[int, int]]) -> int:
    """Numbers in these matrices: two operations each for every vector that meets them."""
    return sum(i * o for i, o in matrices)


def thin(matrices: Sequence[tuple[int, int]], rank: int) -> int:
    """Numbers in LoRAs of these matrices."""
    return rank * sum(i + o for i, o in matrices)


def sft(s: Sizes) -> Cost:
    """A LoRA step: products forward and towards the inputs (4 operations a weight and token), a LoRA's own gradient
    (4 a weight of it), scores and mixing forward and backward of the keys that a causal mask shows, (L + 1) / 2 of them
    (6 (L + 1) A a layer and token), the head. Scores of the vocabulary are held for a chunk of positions, those of
    attention, and their exponentials, for all that is seen."""
    tokens, attention = s.batch * s.length, s.heads * s.head_dim
    layer, lora, head = products(sites(s)), thin(sites(s), s.rank), s.width * s.vocabulary
    each = s.layers * (4 * layer + 4 * lora + 6 * (s.length + 1) * attention) + 4 * head
    weights = s.layers * layer + 2 * head
    inside = 4 * s.width + 2 * attention + 2 * s.groups * s.head_dim + 4 * s.inner + 7 * s.rank
    kept = s.layers * (inside + s.heads * (s.length + 1))
    scores = 2 * min(CHUNK, tokens) * s.vocabulary
    return Cost(
        flops=tokens * each,
        moved=FLOAT * 2 * (s.layers * layer + head),
        held=FLOAT * (weights + 4 * s.layers * lora + tokens * kept + scores),
    )


def head_sites(s: Sizes) -> list[tuple[int, int]]:
    """(in, out) of a layer of the preference head: attention to itself and to the memory, MLP."""
    d, f = s.width, s.inner
    return [(d, d)] * 8 + [(d, f), (d, f), (f, d)]


def turn(s: Sizes) -> Cost:
    """A batch of turns: the backbone reads the prompt once, A(p) makes each row's Delta, the head decodes NEW tokens.

    The number of tenants is nowhere in the time: their table is held, and R rows of it are read.
    """
    own, lora = products(head_sites(s)), thin(head_sites(s), LORA_OF_P)
    delta = HEAD_LAYERS * (lora + 3 * 2 * s.width)  # a row's: LoRA, and three conditional norms
    backbone = s.layers * products(sites(s)) + LFE_LAYERS * s.width**2
    decoder = HEAD_LAYERS * (own - 2 * s.width**2) + s.width * s.vocabulary  # memory's k, v: once
    memory = (1 + PROMPT) * (1 + 2 * HEAD_LAYERS) * s.width**2
    row = 2 * (PROMPT * backbone + memory + HYPER * delta + NEW * (decoder + HEAD_LAYERS * lora))
    keys = HEAD_LAYERS * 2 * s.width * (PROMPT + NEW)  # read at every token
    moved = backbone + HYPER * delta + NEW * (decoder + s.rows * (delta + keys))
    weights = backbone + 2 * s.width * s.vocabulary + HEAD_LAYERS * own + HYPER * delta
    return Cost(
        flops=s.rows * row,
        moved=FLOAT * moved,
        held=FLOAT * (weights + s.tenants * s.p_width + s.rows * (delta + keys)),
    )


def sasrec(s: Sizes) -> Cost:
    """Every position scores every item, and both gradients go the same way back: 6 T I D; Adam moves the whole table
    (reads weight, gradient and two moments, writes three of them)."""
    d, t, table = SAS_WIDTH, s.positions, s.items * SAS_WIDTH
    layer = 4 * d * d + 2 * d * SAS_INNER
    blocks = SAS_LAYERS * (6 * layer + 12 * SAS_ROW * d)
    kept = SAS_LAYERS * (10 * d + 3 * SAS_INNER + 3 * 2 * SAS_ROW)
    chunks = math.ceil(t / CHUNK)
    return Cost(
        flops=t * (6 * table + blocks),
        moved=FLOAT * table * (7 + 4 * chunks),
        held=FLOAT * (5 * table + 2 * min(CHUNK, t) * s.items + t * kept),
    )


def deepmf(s: Sizes) -> Cost:
    """Row-lazy Adam touches the batch's rows of two tables, their moments too; the tables are only held."""
    sizes = (2 * MF_WIDTH, *MF_HIDDEN, 1)
    mlp = sum(i * o for i, o in itertools.pairwise(sizes))
    return Cost(
        flops=s.ratings * 6 * mlp,
        moved=FLOAT * 7 * 2 * s.ratings * MF_WIDTH,
        held=FLOAT * (3 * 2 * s.table * MF_WIDTH + s.ratings * 4 * sum(sizes)),
    )


def search(s: Sizes) -> Cost:
    """One query meets every vector once."""
    numbers = s.vectors * s.vector_width
    return Cost(flops=2 * numbers, moved=FLOAT * numbers, held=FLOAT * numbers)


@dataclasses.dataclass(frozen=True)
class Axis:
    """One way to grow: its cost on paper, what a step is, and its label in a plot."""

    cost: Callable[[Sizes], Cost]
    step: str
    label: str


AXES = {
    "batch": Axis(sft, "LoRA step", "rows in a batch"),
    "length": Axis(sft, "LoRA step", "tokens in a row"),
    "layers": Axis(sft, "LoRA step", "layers"),
    "vocabulary": Axis(sft, "LoRA step", "words of the vocabulary"),
    "tenants": Axis(turn, "turn of 16 tokens", "tenants in the table, 16 in a batch"),
    "rows": Axis(turn, "turn of 16 tokens", "rows in a batch, each with its own p"),
    "items": Axis(sasrec, "SASRec step", "items of the catalogue"),
    "table": Axis(deepmf, "DeepMF update", "rows in each of two tables"),
    "reach": Axis(deepmf, "DeepMF update", "rows drawn from, of large tables"),
    "vectors": Axis(search, "exact search", "vectors"),
}


def sizes_at(axis: str, value: int, sizes: Sizes) -> Sizes:
    """The sizes of one point of an axis."""
    large = {"table": 4 * sizes.table} if axis == "reach" else {}
    return dataclasses.replace(sizes, **large, **{axis: value})


def cost(axis: str, value: int, sizes: Sizes = Sizes()) -> Cost:
    """On paper, at one point of an axis."""
    return AXES[axis].cost(sizes_at(axis, value, sizes))


def anchor(values: Sequence[int]) -> int:
    """Which of the values, ascending, is the one at which curve and measurement meet: the middle one."""
    return len(values) // 2


def exponent(values: Sequence[float], costs: Sequence[float | None]) -> float | None:
    """The slope on log-log axes over the upper half of the points (from the anchor on), by least squares.

    None with fewer than two points there, and where a cost is not positive: it has no logarithm.
    """
    points = sorted(zip(values, costs, strict=True))[anchor(values) :]
    if len(points) < 2 or any(not c or c <= 0 for _, c in points):
        return None
    xs, ys = ([math.log(point[i]) for point in points] for i in (0, 1))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((a - x) ** 2 for a in xs)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread if spread else None


def anchored(paper: Sequence[float], measured: Sequence[float]) -> list[float]:
    """The paper's numbers, scaled so that they meet the measured ones at the anchor."""
    at = anchor(paper)
    return [number * measured[at] / paper[at] for number in paper]
