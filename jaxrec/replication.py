"""Floor 1: which activations of a compiled program every device holds for every row of the batch.

    for held in replicated(compiled.as_text(), rows=64, length=1024, share=3584 // 16): ...

On a mesh that splits rows (`mesh.ACTIVATIONS`) the answer is none. The program's text has no names for dimensions, so
they are told apart by their sizes: choose a batch whose rows are not the size of anything else.
"""

import math
from collections.abc import Iterator

from jaxrec.program import Instruction, read

# These give a name to what another instruction has made, or hold a loop's whole state.
_NAMES = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call")


def replicated(text: str, rows: int, length: int, share: int = 0) -> list[Instruction]:
    """The instructions that give an array of all `rows` x `length` tokens on one device, the largest first.

    Args:
      text: `compiled.as_text()`.
      rows: of the whole batch, or of a microbatch where gradients are accumulated.
      length: tokens of a row, or slots of a cache.
      share: numbers of each token that a device may hold: rows read from a table whose columns are split pass it as
        width / parts, which is as many bytes as all columns of its own rows.
    """
    program = read(text)
    # Weights and moments at rest may have a dimension of that size by accident; what comes in is no activation.
    known = set()
    for line in program.computations[program.entry].values():
        if line.kind == "parameter":
            known |= {sizes[cut:] for _, sizes in line.arrays for cut in (0, 1)}
    fused = {
        name
        for line in program.instructions()
        if line.kind == "fusion"
        for name in line.called()["calls"]
    }
    found = []
    for line in program.instructions():
        # Inside of a fusion nothing is kept.
        if line.kind in _NAMES or line.computation in fused:
            continue
        held = [
            math.prod(sizes)
            for _, sizes in line.arrays
            if sizes not in known and any(_all_tokens(sizes, rows, length))
        ]
        if max(held, default=0) > rows * length * max(share, 1):
            found.append(line)
    return sorted(found, key=lambda line: -line.bytes)


def _all_tokens(sizes: tuple[int, ...], rows: int, length: int) -> Iterator[bool]:
    """Whether a dimension, or two, of an array stand for all tokens: rows before places, places before rows, or
    both in one."""
    sizes = tuple(n for n in sizes if n > 1)
    for i, size in enumerate(sizes):
        yield size == rows * length
        yield size == rows and any(n % length == 0 for n in sizes[i + 1 :])
        yield size == rows and sizes[i - 1 : i] == (length,) and i + 1 < len(sizes)
