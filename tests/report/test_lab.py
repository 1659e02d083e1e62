"""The page of an experiment: what it shows of several seeds, of a quick run, and that it fetches nothing."""

import pytest

from palate.engine.files import encode_json
from palate.errors import RunDirectoryError
from palate.report.lab import Column, Experiment, Picture, Reading, render, write


def reading(arm, seed=0, figures=None, curves=None):
    return Reading(arm=arm, seed=seed, figures=figures or {"gold": 0.5}, curves=curves or {"gold": ((0, 0), (1, 0.5))})


def experiment(*readings, **changes):
    whole = {
        "name": "kl", "question": "What does a nat <cost>?", "seen": "Gold went up & down.", "quick": False,
        "seeds": sorted({one.seed for one in readings}), "command": "palate lab kl --seeds 0",
        "columns": (Column(figure="gold", title="Gold"), Column(figure="none", title="Nowhere")),
        "pictures": (Picture(curve="gold", title="Gold", measure="gold", along="√KL"),),
        "readings": readings, "arms": {"a": ("align.ppo.kl.coef=0.5",)},
    }  # fmt: skip
    return Experiment.model_validate(whole | changes)


def test_the_page_holds_what_was_seen_and_how_to_do_it_again():
    page = render(experiment(reading("a"), reading("b")))
    assert "What does a nat &lt;cost&gt;?" in page and "Gold went up &amp; down." in page
    assert "palate lab kl --seeds 0" in page and "<code>align.ppo.kl.coef=0.5</code>" in page
    assert "gold over √KL" in page
    assert "--quick" not in page


def test_nothing_is_fetched():
    page = render(experiment(reading("a")))
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert "<script" not in page


def test_a_quick_run_says_that_its_numbers_mean_nothing():
    page = render(experiment(reading("a"), quick=True))
    assert "the numbers mean nothing" in page
    assert 'class="verdict"' in page


def test_several_seeds_give_a_mean_with_its_ends():
    page = render(experiment(*(reading("a", seed, {"gold": value}) for seed, value in ((0, 0.2), (1, 0.6)))))
    assert '0.40<br><span class="interval">0.20 to 0.60</span>' in page
    assert "means of seeds 0, 1" in page


def test_a_figure_that_not_every_seed_has_says_how_many_do():
    some = [reading("a", seed, {"peak": seed} if seed else {"other": 1.0}) for seed in (0, 1, 2)]
    page = render(experiment(*some, columns=(Column(figure="peak", title="Peak"),)))
    # Seeds 1 and 2 have it: a mean of 1.5 from 1 to 2.
    assert '1.50<br><span class="interval">1.00 to 2.00; 2 of 3 seeds</span>' in page
    alone = render(experiment(*some[:2], columns=(Column(figure="peak", title="Peak"),)))
    assert '1.00<br><span class="interval">1 of 2 seeds</span>' in alone


def test_a_column_and_a_picture_that_nobody_has_are_left_out():
    page = render(experiment(reading("a", curves={"other": ((0, 0),)})))
    assert "Nowhere" not in page
    assert "<svg" not in page


def test_a_reading_of_curves_alone_is_no_row_of_the_table():
    page = render(experiment(reading("a"), Reading(arm="only drawn", seed=0, figures={}, curves={"gold": ((0, 1),)})))
    assert '<th scope="row">a</th>' in page
    assert '<th scope="row">only drawn</th>' not in page and "only drawn" in page


def test_a_fit_is_drawn_through_what_was_measured():
    drawn = Picture(curve="fit", points="gold", title="Gold", measure="gold", along="√KL")
    curves = {"fit": ((0, 0), (1, 1)), "gold": ((0.5, 0.4), (0.9, 1.2), (0.2, 0.1))}
    page = render(experiment(reading("a", curves=curves), pictures=(drawn,)))
    plain = render(experiment(reading("a", curves=curves), pictures=(drawn.model_copy(update={"points": None}),)))
    # Dots are uses of one marker: three that were measured, against the one at a curve's end.
    assert page.count("<use ") - plain.count("<use ") == 2


def test_it_is_written_beside_its_numbers(tmp_path):
    (tmp_path / "experiment.json").write_text(encode_json(experiment(reading("a")).model_dump(mode="json")))
    assert write(tmp_path).read_text() == render(experiment(reading("a")))
    with pytest.raises(RunDirectoryError, match="is not there"):
        write(tmp_path / "nowhere")
