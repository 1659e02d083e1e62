"""What both sides read: lengths, ends, and the same rows for the same seed."""

from bench import inputs


def test_prompts_have_16_to_32_words():
    rows = inputs.prompts(300, vocabulary=50, seed=0)
    assert {len(row["prompt"]) for row in rows} == set(range(16, 33))
    assert all(3 <= token < 50 for row in rows for token in row["prompt"])


def test_rows_have_32_to_96_tokens_and_end_once():
    rows = inputs.demonstrations(1000, vocabulary=50, seed=0)
    lengths = [len(row["prompt"]) + len(row["completion"]) for row in rows]
    assert (min(lengths), max(lengths)) == (32, 96)
    assert 62 < sum(lengths) / len(lengths) < 66  # uniform: 64
    for row in rows:
        assert row["completion"].index(inputs.EOS) == len(row["completion"]) - 1


def test_the_sides_of_a_pair_share_their_prompt_alone():
    rows = inputs.pairs(300, vocabulary=50, seed=0)
    lengths = [len(row["prompt"]) + len(row[side]) for row in rows for side in ("chosen", "rejected")]
    assert (min(lengths), max(lengths)) == (32, 96)
    assert all(row["chosen"] != row["rejected"] for row in rows)


def test_the_same_seed_gives_the_same_rows(tmp_path):
    inputs.write(inputs.pairs(5, 50, seed=1), tmp_path / "one.jsonl")
    inputs.write(inputs.pairs(5, 50, seed=1), tmp_path / "same.jsonl")
    inputs.write(inputs.pairs(5, 50, seed=2), tmp_path / "other.jsonl")
    one, same, other = (path.read_text() for path in (tmp_path / f"{name}.jsonl" for name in ("one", "same", "other")))
    assert one == same != other
