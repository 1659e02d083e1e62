"""How a recipe's rewards are named."""

import pytest

from palate.errors import RecipeError
from palate.rewards import sources_of


@pytest.mark.parametrize("name", ["mean", "std", "p10", "p90", "sum"])
def test_a_name_that_is_a_metric_already_is_refused_in_either_place(name):
    with pytest.raises(RecipeError, match=rf'align\.reward is called "{name}"'):
        sources_of(f"rewards.py:{name}", ())
    for table in ({"source": f"rewards.py:{name}"}, {"source": "length", "target": 4, "name": name}):
        with pytest.raises(RecipeError, match=rf'align\.rewards\[1\] is called "{name}"'):
            sources_of("model", ({"source": "model"}, table))


def test_two_rewards_of_one_name_are_refused():
    with pytest.raises(RecipeError, match='"reward_model"'):
        sources_of("model", ({"source": "model"}, {"source": "model"}))


def test_other_names_stand():
    assert [source.name for source in sources_of("rewards.py:brevity", ())] == ["brevity"]
    tables = ({"source": "rewards.py:std", "name": "spread"}, {"source": "model"})
    assert [source.name for source in sources_of("model", tables)] == ["spread", "reward_model"]
