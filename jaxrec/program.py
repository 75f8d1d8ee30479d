"""Floor 1: what a compiled program says of itself: how often each instruction runs, and what it sends.

    compiled = jax.jit(step).lower(...).compile()
    for kind, (count, sent) in by_kind(collectives(compiled.as_text())).items(): ...

The HLO text lists a loop's body once. How often it runs is found here by running the loop's counter: only its scalars
of X

XLA's text form is described at https://openxla.org/xla/operation_semantics; what a collective sends per device, of a
group of n, is that of the ring algorithms (Thakur 2005), which none can beat: all-gather and reduce-scatter (n - 1) / n
of the whole array, all-reduce twice that, all-to-all (n - 1) / n of the device's own, a permute its operand.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64,
}  # fmt: skip
KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
LIMIT = 1 << 20  # turns of a counter at most, before a loop counts as endless

_NAME = r"[\w.\-]+"
_HEAD = re.compile(rf"^(?:ENTRY )?%?({_NAME}) .*\{{$")
_LINE = re.compile(rf"^  (ROOT )?%?({_NAME}) = (.*)$")
_ARRAY = re.compile(r"([a-z]+[0-9]*(?:e[0-9]m[0-9]\w*)?)\[([0-9,]*)\]")
_CALLED = re.compile(
    rf"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation|called_computations)="
    rf"(\{{[^}}]*\}}|%?{_NAME})"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation. `shape`: its result as the text has it; `rest`: what stands behind its operands."""

    name: str
    kind: str
    shape: str
    operands: tuple[str, ...]
    rest: str
    computation: str

    @property
    def op_name(self) -> str:
        """Which part of the traced program it was made of: the path of jax's names; empty where XLA made it up."""
        known = re.search(r'op_name="([^"]*)"', self.rest)
        return known[1] if known else ""

    @property
    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """(type, sizes) of its result, or of each part of a tuple."""
        return arrays(self.shape)

    @property
    def bytes(self) -> int:
        """Of its whole result on one device."""
        return sum(map(size_of, self.arrays))

    def called(self) -> dict[str, tuple[str, ...]]:
        """{attribute: computations that it calls by it}."""
        found = _CALLED.findall(self.rest)
        return {key: tuple(re.findall(rf"%?({_NAME})", names)) for key, names in found}


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of one module by name, each {instruction name: Instruction}, and the entry's name."""

    computations: Mapping[str, Mapping[str, Instruction]]
    roots: Mapping[str, str]
    entry: str
    devices: int

    @cached_property
    def loops(self) -> dict[str, int | None]:
        """{name of a while instruction: turns of its body}; None where the text does not say."""
        return {i.name: self._turns(i) for i in self.instructions() if i.kind == "while"}

    def instructions(self) -> Iterator[Instruction]:
        """All of them, computation by computation."""
        for lines in self.computations.values():
            yield from lines.values()

    def times(self, unknown: Mapping[str, int] | None = None) -> dict[str, int]:
        """{computation: how often it runs in one call of the program}.

        unknown: {part of an op_name: turns}, for loops whose end depends on the data; such a loop counts once where
        no entry fits.
        """
        runs = dict.fromkeys(self.computations, 0)
        runs[self.entry] = 1
        for name in self._callers_first():
            for line in self.computations[name].values():
                for key, names in line.called().items():
                    turns = 1
                    if line.kind == "while":
                        turns = self.loops[line.name]
                        turns = bound(line, unknown) if turns is None else turns
                        turns += key == "condition"  # asked once more than the body runs
                    for one in names:
                        runs[one] = runs.get(one, 0) + runs[name] * turns
        return runs

    def unknown_loops(self, unknown: Mapping[str, int] | None = None) -> list[Instruction]:
        """The loops that run and of which neither the text nor `unknown` says how often."""
        fits = lambda line: any(part in line.op_name for part in unknown or {})
        lines = (i for i in self.instructions() if i.kind == "while")
        return [i for i in lines if self.loops[i.name] is None and not fits(i)]

    def _callers_first(self) -> list[str]:
        order: list[str] = []
        done: set[str] = set()
        stack = [(self.entry, False)]
        while stack:
            name, left = stack.pop()
            if left:
                order.append(name)
            elif name not in done:
                done.add(name)
                stack.append((name, True))
                lines = self.computations.get(name, {}).values()
                stack += [(n, False) for i in lines for names in i.called().values() for n in names]
        return [name for name in reversed(order) if name in self.computations]

    def _turns(self, loop: Instruction) -> int | None:
        called = loop.called()
        (condition,), (body,) = called["condition"], called["body"]
        start = self._element_values(loop)
        values, turns = start, 0
        while turns <= LIMIT:
            goes_on = self._value(condition, self.roots[condition], values)
            if goes_on is None:
                return None
            if not goes_on:
                return turns
            values = self._next(body, values)
            if values is None:
                return None
            turns += 1
        return None

    def _element_values(self, loop: Instruction) -> dict[int, int]:
        """{place in the loop's tuple: value}, of the scalars whose value at the start is known."""
        lines = self.computations[loop.computation]
        first = lines.get(loop.operands[0])
        if first is None or first.kind != "tuple":
            return {}
        known = {
            n: self._value(loop.computation, name, None) for n, name in enumerate(first.operands)
        }
        return {n: value for n, value in known.items() if value is not None}

    def _next(self, body: str, values: Mapping[int, int]) -> dict[int, int] | None:
        root = self.computations[body][self.roots[body]]
        if root.kind != "tuple":
            return None
        new = {n: self._value(body, root.operands[n], values) for n in values}
        return {n: value for n, value in new.items() if value is not None}

    def _value(
        self,
        computation: str,
        name: str,
        carried: Mapping[int, int] | None,
        inputs: Sequence[int | None] = (),
    ) -> int | None:
        """A scalar's value, or None.

        computation, name: which scalar. carried: of the loop's tuple, where this is a loop's body or condition. inputs:
        of the parameters, where it is a fused computation.
        """
        line = self.computations[computation].get(name)
        if line is None or line.shape.startswith("(") or "[]" not in line.shape:
            return None
        if line.kind == "constant":
            known = re.match(r"\((-?\d+|true|false)\)", line.rest)
            return None if known is None else int(_BOOLEAN.get(known[1], known[1]))
        if line.kind == "get-tuple-element":
            if (
                carried is None
                or self.computations[computation][line.operands[0]].kind != "parameter"
            ):
                return None
            return carried.get(int(re.search(r"index=(\d+)", line.rest)[1]))
        if line.kind == "parameter":
            n = int(re.match(r"\((\d+)", line.rest)[1])
            return inputs[n] if n < len(inputs) else None
        if line.kind not in (*_SCALAR, "fusion", "compare"):
            return None
        values = [self._value(computation, o, carried, inputs) for o in line.operands]
        if None in values:
            return None
        if line.kind == "fusion":
            (inner,) = line.called()["calls"]
            return self._value(inner, self.roots[inner], None, values)
        if line.kind == "compare":
            return int(_COMPARE[re.search(r"direction=(\w+)", line.rest)[1]](*values))
        return _SCALAR[line.kind](*values)


_COMPARE = {
    "LT": int.__lt__, "LE": int.__le__, "GT": int.__gt__, "GE": int.__ge__, "EQ": int.__eq__, "NE": int.__ne__,
}  # fmt: skip
_SCALAR = {
    "add": int.__add__, "subtract": int.__sub__, "multiply": int.__mul__, "and": int.__and__, "or": int.__or__,
    "copy": int, "bitcast": int, "convert": int, "not": lambda x: int(not x), "maximum": max, "minimum": min,
}  # fmt: skip
_BOOLEAN = {"true": 1, "false": 0}


def bound(loop: Instruction, unknown: Mapping[str, int] | None) -> int:
    """Turns of a loop whose end the text does not say: of the first part of its op_name in `unknown`; else 1."""
    return next((n for part, n in (unknown or {}).items() if part in loop.op_name), 1)


def read(text: str) -> Program:
    """Reads `compiled.as_text()`. Raises ValueError for a text without an entry computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    roots: dict[str, str] = {}
    entry = name = ""
    for raw in text.splitlines():
        line = re.sub(r"/\*.*?\*/", "", raw)
        if not line.startswith(" "):
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                name = head[1]
                computations[name] = {}
                entry = name if line.startswith("ENTRY") else entry
            continue
        found = _LINE.match(line)
        if found and name:
            made = _instruction(found[2], found[3], name)
            computations[name][made.name] = made
            if found[1]:
                roots[name] = made.name
    if not entry:
        raise ValueError("this is no HLO text: it has no ENTRY computation")
    header = text.split("\n", 1)[0]
    count = lambda what: int((re.search(rf"{what}=(\d+)", header) or [0, "1"])[1])
    return Program(computations, roots, entry, count("num_partitions") * count("replica_count"))


def _instruction(name: str, rest: str, computation: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    kind, rest = rest.split("(", 1)
    close = _closing("(" + rest, 0) - 1
    operands = tuple(re.findall(rf"%({_NAME})", rest[:close]))
    # A constant's value and a parameter's number stand where other instructions have operands.
    said = f"({rest[:close]})" if kind in ("constant", "parameter") else ""
    return Instruction(name, kind, shape, operands, said + rest[close + 1 :], computation)


def _closing(text: str, at: int) -> int:
    """Where the parenthesis that opens at `at` closes."""
    depth = 0
    for n in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[n], 0)
        if not depth:
            return n
    raise ValueError(f"a parenthesis without its end: {text[at : at + 60]}...")


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """(type, sizes) of each array in a shape's text."""
    bare = re.sub(r"\{[^}]*\}", "", shape)  # layouts, which hold numbers in brackets too
    return [
        (kind, tuple(int(n) for n in sizes.split(",") if n))
        for kind, sizes in _ARRAY.findall(bare)
        if kind in BITS
    ]


def size_of(array: tuple[str, tuple[int, ...]]) -> int:
    """Bytes of (type, sizes)."""
    return math.prod(array[1]) * BITS[array[0]] // 8


# ------------------------------------------------------------------------------------------ collectives


@dataclasses.dataclass(frozen=True)
class Collective:
    """What one collective does in a call of the program. `sent`: bytes a device sends each time it runs."""

    kind: str
    sent: float
    times: int
    group: int  # devices that take part together
    shape: str
    op_name: str

    @property
    def total(self) -> float:
        """Bytes a device sends in a whole call of the program."""
        return self.sent * self.times


def collectives(text: str, unknown: Mapping[str, int] | None = None) -> list[Collective]:
    """Those of a compiled program that run, the heaviest first. A group of one device sends nothing and is left out.

    text: `compiled.as_text()`. unknown: as of `Program.times`.
    """
    program = read(text)
    times = program.times(unknown)
    pieces: dict[str, list[Instruction]] = {}
    for line in program.instructions():
        if line.kind.removesuffix("-start") in KINDS and times.get(line.computation):
            # The TPU's compiler cuts a collective that overlaps with products into pieces, each in a fusion of its
            # own and some of them inside a product's loop. All name one chain and one channel.
            chain = re.search(r'channel_id=(\d+).*?chain_id="(\d+)"', line.rest)
            pieces.setdefault("/".join(chain.groups()) if chain else f"%{line.name}", []).append(
                line
            )
    found = []
    for lines in pieces.values():
        line = min(lines, key=lambda one: times[one.computation])
        kind, group = line.kind.removesuffix("-start"), _group(line, program.devices)
        sent = _sent(line, kind, group, program)
        # An all-reduce of which a fusion keeps a slice is how this compiler writes a reduce-scatter.
        if kind == "all-reduce" and line.computation.startswith("all-reduce-scatter"):
            kind, sent = "reduce-scatter", sent / 2
        if sent:
            runs = times[line.computation]
            found.append(Collective(kind, sent, runs, group, line.shape, line.op_name))
    return sorted(found, key=lambda c: -c.total)


def by_kind(found: Sequence[Collective]) -> dict[str, tuple[int, float]]:
    """{kind: (how many run, bytes a device sends by them)}."""
    return {
        kind: (
            sum(c.times for c in found if c.kind == kind),
            sum(c.total for c in found if c.kind == kind),
        )
        for kind in KINDS
        if any(c.kind == kind for c in found)
    }


def _group(line: Instruction, devices: int) -> int:
    """How many devices exchange with each other."""
    rest = line.rest
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", named[2]))
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(counted[2])
    return devices


def _sent(line: Instruction, kind: str, group: int, program: Program) -> float:
    parts = line.arrays
    if line.kind == "collective-permute-start":
        parts = parts[1:2]  # (operand, result, two counters)
    elif line.kind.endswith("-start") and kind != "all-reduce":
        parts = parts[len(parts) // 2 :]  # (operands, results)
    own = sum(map(size_of, parts))
    if kind == "collective-permute":
        pairs = re.findall(
            r"\{(\d+),(\d+)\}", line.rest.split("source_target_pairs=")[1].split("}}")[0] + "}"
        )
        return own * sum(a != b for a, b in pairs) / program.devices
    share = (group - 1) / group
    return own * {"all-reduce": 2 * share, "reduce-scatter": group - 1}.get(kind, share)
