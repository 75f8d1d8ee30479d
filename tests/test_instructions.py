"""Instruction and tool traces: enough of them, all different, all right."""

import json
import re

from jaxrec.world.instructions import FAMILIES, instructions


def test_counts_and_determinism():
    traces = instructions()
    assert len(traces) >= 400 and len(FAMILIES) >= 12
    assert {t.family for t in traces} == set(FAMILIES)
    assert len({t.turns[0].text for t in traces}) == len(traces)
    assert traces == instructions() != instructions(seed=1)


def test_arithmetic_is_right():
    for trace in instructions():
        if trace.family in ("add", "subtract", "multiply"):
            a, sign, b, c = re.fullmatch(
                r"(\d+) ([-+x]) (\d+) = (\d+)", trace.turns[1].text
            ).groups()
            a, b = int(a), int(b)
            assert {"+": a + b, "-": a - b, "x": a * b}[sign] == int(c)
            assert {str(a), str(b)} <= set(re.findall(r"\d+", trace.turns[0].text))


def test_tool_traces_carry_a_call_a_result_and_an_answer_that_uses_it():
    tools = [t for t in instructions() if len(t.turns) == 4]
    assert len({t.family for t in tools}) >= 4
    for trace in tools:
        assert [turn.role for turn in trace.turns] == ["customer", "assistant", "tool", "assistant"]
        call = json.loads(trace.turns[1].text.removeprefix("call "))
        result = json.loads(trace.turns[2].text)
        assert call["tool"] == trace.family
        assert all(str(value) in trace.turns[3].text for value in result.values())
