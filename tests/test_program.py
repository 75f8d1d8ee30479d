"""Reading a compiled program's text: loops' turns, what collectives send. `program.hlo` is written for it."""

from pathlib import Path

import pytest

from jaxrec import program

# A loop over six layers with a gather in two pieces, a loop within it that counts by twos, as a product that overlaps
# with its own gather does, a loop whose end depends on the data, and a reduce-scatter in a fusion.
TEXT = (Path(__file__).parent / "program.hlo").read_text()


def test_turns_of_loops():
    read = program.read(TEXT)
    assert read.loops == {"inner": 4, "loop": 6, "chunks": None}
    assert [loop.op_name for loop in read.unknown_loops()] == ["jit(step)/jvp()/while"]
    assert read.unknown_loops({"jvp()/while": 5}) == []
    times = read.times({"jvp()/while": 5})
    assert (times["layer"], times["ring_body"], times["chunk"]) == (6, 24, 5)
    assert times["layers_left"] == 7  # asked once more than it runs


def test_what_collectives_send():
    found = {c.op_name: c for c in program.collectives(TEXT, {"jvp()/while": 5})}
    # 4 of 16 devices send their part to another one; the fifth pair stays where it is.
    assert found["ring"].kind == "collective-permute"
    assert (found["ring"].sent, found["ring"].times) == (8 * 16 * 2 * 4 / 16, 24)
    # Two pieces of one gather count once.
    gather = found["layer/q"]
    assert (gather.kind, gather.group, gather.times) == ("all-gather", 4, 6)
    assert gather.sent == 8 * 64 * 2 * 3 / 4
    grad = found["grad"]
    assert (grad.kind, grad.group, grad.times) == ("reduce-scatter", 4, 1)
    assert grad.sent == 32 * 4 * 4 * 3 / 4
    softmax = found["softmax"]
    assert (softmax.kind, softmax.group, softmax.times) == ("all-reduce", 2, 5)
    assert softmax.sent == 16 * 4 * 2 / 2


def test_a_collective_that_is_begun_and_ended_apart_counts_by_its_result():
    line = "  %s = ((f32[32,4]{1,0}), f32[8,4]{1,0}) reduce-scatter-start(%g), replica_groups=[4,4]<=[16]"
    (found,) = program.collectives(
        TEXT.split("ENTRY")[0] + f"ENTRY %e (g: f32[32,4]) -> f32[8,4] {{\n{line}\n}}\n"
    )
    assert (found.kind, found.sent) == ("reduce-scatter", 32 * 4 * 4 * 3 / 4)


def test_kinds_are_added_up():
    found = program.collectives(TEXT, {"jvp()/while": 5})
    kinds = program.by_kind(found)
    assert kinds["all-gather"] == (6, 6 * 768.0)
    assert sum(sent for _, sent in kinds.values()) == pytest.approx(sum(c.total for c in found))
    assert [c.total for c in found] == sorted((c.total for c in found), reverse=True)


def test_shapes_are_read_past_their_layouts():
    shape = "(bf16[2,256]{1,0:T(8,128)(2,1)S(1)}, u8[3]{0}, s4[2,2], pred[], token[])"
    assert program.arrays(shape) == [("bf16", (2, 256)), ("u8", (3,)), ("s4", (2, 2)), ("pred", ())]
    assert list(map(program.size_of, program.arrays(shape))) == [1024, 3, 2, 1]


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        program.read("module @jit_step { }")
