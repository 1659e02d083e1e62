"""The gravest of several checks is the verdict."""

import pytest

from palate.evaluation import Check, worst


def check(level):
    return Check("name", level, "sft/heldout_loss", 1.0, "rule", "reason.", "")


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((), "pass"),
        (("pass", "pass"), "pass"),
        (("pass", "warn", "pass"), "warn"),
        (("warn", "stop", "pass"), "stop"),
        (("stop",), "stop"),
    ],
)
def test_the_gravest_level_counts(levels, expected):
    assert worst(map(check, levels)) == expected
