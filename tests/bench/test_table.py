"""From samples to numbers: medians, ratios, fractions, greedy rows, and what the table shows."""

import io

import pytest
from rich.console import Console

from bench.sides import Run
from bench.table import (
    Greedy,
    compare_greedy,
    comparison,
    duration,
    median_seconds,
    ratios,
    size,
    summarise,
)


def run(*seconds: float, tokens: int = 100, memory: int = 1000, phases: dict | None = None) -> Run:
    """A process with a slow warm-up and one iteration for each of `seconds`."""
    samples = [
        {
            "seconds": duration,
            "prompt_tokens": tokens // 4,
            "completion_tokens": 3 * tokens // 4,
            "warm_up": index == 0,
            "own_cores": 2.0,
            "other_cores": 0.5,
            "phases": phases or {},
        }
        for index, duration in enumerate((99.0, *seconds))
    ]
    return Run(tuple(samples), {"memory": memory, "memory_before": 400})


def both(sample) -> int:
    return sample["prompt_tokens"] + sample["completion_tokens"]


def summary(*runs: Run):
    return summarise(runs, both, lambda sample: 1000.0 * both(sample), rate=1e6)


def test_medians_leave_the_warm_up_out():
    found = summary(run(1.0, 2.0), run(4.0, memory=3000))
    assert (found.seconds, found.fastest, found.slowest, found.iterations) == (2.0, 1.0, 4.0, 3)
    assert found.tokens == 100
    assert found.tokens_a_second == 50.0
    # 100,000 operations in 2 s are 50,000 a second, of a rate of a million.
    assert found.fraction == pytest.approx(0.05)
    assert (found.memory, found.memory_before) == (3000, 400)
    assert (found.own_cores, found.other_cores) == (2.0, 0.5)


def test_phases_are_medians_too():
    found = summary(run(1.0, phases={"rollout": 0.2}), run(1.0, phases={"rollout": 0.4, "score": 0.1}))
    assert found.phases == {"rollout": pytest.approx(0.3), "score": 0.1}


def test_a_ratio_above_one_is_in_our_favour():
    ours, peer = [run(1.0), run(2.0)], [run(3.0, memory=2500), run(4.0, tokens=50)]
    found = ratios(summary(*ours), summary(*peer), list(zip(ours, peer, strict=True)))
    assert found.seconds == pytest.approx(3.5 / 1.5)
    assert found.seconds_by_round == (3.0, 2.0)
    # Ours 100 and 50 tokens a second, theirs 33.3 and 12.5 (12 and 37 tokens in 4 s).
    assert found.tokens_a_second == pytest.approx(75 / ((100 / 3 + 49 / 4) / 2))
    assert found.memory == 2.5
    assert median_seconds(peer[1]) == 4.0


def test_greedy_rows():
    ours = [[5, 6, 1], [5, 6, 7], [5, 9, 9], [8, 1], [4]]
    peer = [[5, 6, 1], [5, 6, 8], [5, 2, 3], [8, 1], [3]]
    gaps = [[1.0] * 3, [1.0, 1.0, 5e-5], [1.0, 2e-4, 1.0], [1.0, 1.0], [1.0]]
    # Equal, parted at a near tie, different, equal, different: 3 + 2 + 1 + 2 + 0 equal tokens.
    assert compare_greedy(ours, peer, gaps) == Greedy(rows=5, tokens=8, differing=2, parted_at_a_tie=1)


def test_a_row_that_goes_on_differs():
    assert compare_greedy([[5, 6]], [[5]], [[1.0]]) == Greedy(rows=1, tokens=1, differing=1, parted_at_a_tie=0)


def shown(table) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_the_table_shows_both_sides_and_their_ratio():
    mine, theirs = run(1.0, phases={"rollout": 0.2, "old_logprobs": 0.1}), run(2.5, phases={"rollout": 0.5})
    ours, peer = summary(mine), summary(theirs)
    lines = shown(comparison("title", ours, peer, "TRL 1.12", ratios(ours, peer, [(mine, theirs)]))).splitlines()
    rows = {line.split("  ")[0].strip() or line.split()[0]: line.split() for line in lines}
    assert rows["seconds, median"][-5:] == ["1", "s", "2.5", "s", "2.50"]
    assert next(line for line in lines if "rollout" in line).split() == ["rollout", "200", "ms", "500", "ms", "2.50"]
    assert next(line for line in lines if "old_logprobs" in line).split() == ["old_logprobs", "100", "ms", "–"]


def test_the_table_of_one_side_has_no_ratio():
    ours = summary(run(1.0))
    line = next(line for line in shown(comparison("", ours, None, "", None)).splitlines() if "median" in line)
    assert line.split() == ["seconds,", "median", "1", "s"]


def test_numbers_as_a_person_reads_them():
    assert [duration(0.01234), duration(1.234), duration(61.0)] == ["12.3 ms", "1.23 s", "61 s"]
    assert [size(830e6), size(3.04e9)] == ["830 MB", "3.04 GB"]
