"""Path rules: what trains and what stays frozen."""

import numpy as np
import pytest

from jaxrec.training import partition

PARAMS = {
    "stack_0": {"attn": {"q": {"kernel": np.ones(2)}}, "norm": {"scale": np.ones(1)}},
    "hypernet": {"trunk": {"kernel": np.zeros(3)}},
    "profile": {"p": np.zeros(4)},
}


def test_split_and_merge_are_inverse():
    trained, frozen = partition.split(PARAMS, r"hypernet/.*|profile/.*")
    assert set(trained) == {"hypernet", "profile"}
    assert set(frozen) == {"stack_0"}
    assert dict(partition.paths(partition.merge(trained, frozen))) == dict(partition.paths(PARAMS))


def test_a_rule_cuts_inside_a_stack():
    trained, frozen = partition.split(PARAMS, r"stack_0/attn/.*")
    assert [path for path, _ in partition.paths(trained)] == ["stack_0/attn/q/kernel"]
    assert "stack_0/norm/scale" in dict(partition.paths(frozen))


@pytest.mark.parametrize("rule", ["hypernett/.*", "hypernet", ".*"])
def test_nothing_or_everything_is_an_error_that_prints_the_paths(rule):
    with pytest.raises(partition.PartitionError) as error:
        partition.split(PARAMS, rule)
    for path in ("stack_0/attn/q/kernel", "hypernet/trunk/kernel", "profile/p"):
        assert path in str(error.value)


def test_merge_refuses_a_path_that_both_hold():
    with pytest.raises(partition.PartitionError, match="'kernel'"):
        partition.merge({"a": {"kernel": 1}}, {"a": {"kernel": 2}})
