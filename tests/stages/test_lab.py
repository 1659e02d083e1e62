"""palate lab: every experiment from end to end in small, and what each says of numbers that came out either way."""

import json
import math

import pytest

from palate.errors import UsageError
from palate.report.lab import Reading
from palate.stages.calls import Quiet
from palate.stages.lab import (
    EXPERIMENTS,
    anchoring,
    candidates,
    conduct,
    experiment_of,
    growth,
    hacking,
    leashes,
    objectives,
    peaks,
    pooling,
)
from palate.stages.lab.framework import Bench, Found, listed, rooted


def done(name, root, seeds=(0,)):
    experiment = experiment_of(name)
    page = conduct(
        experiment,
        seeds=seeds,
        quick=True,
        command="palate lab",
        watch=lambda _: Quiet(),
        say=lambda _: None,
        root=root,
    )
    return experiment, page, json.loads(page.with_suffix(".json").read_bytes())


def whole(experiment, page, held):
    """What holds for every experiment's directory."""
    assert page.parent.name == f"{experiment.name}-quick"
    assert held["seen"].endswith(".")
    assert {arm for reading in held["readings"] for arm in [reading["arm"]] if reading["figures"]} <= set(held["arms"])
    text = page.read_text()
    assert "the numbers mean nothing" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "<script" not in text
    for column in experiment.columns:
        known = any(column.figure in reading["figures"] for reading in held["readings"])
        assert known or column.figure in MAY_BE_ABSENT, column.figure
    for picture in experiment.pictures:
        assert any(picture.curve in reading["curves"] for reading in held["readings"]) or picture.curve == "fit"


# A peak needs three looks away from the start, which a quick run does not take; best-of-n may not turn.
MAY_BE_ABSENT = {"peak", "peak_low", "peak_high", "fitted", "bon_peak"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    return root, *done("length", root)


def test_an_experiment_from_end_to_end(grown):
    _, experiment, page, held = grown
    whole(experiment, page, held)
    assert {reading["arm"] for reading in held["readings"]} == {"beta-0", "beta-0.1"}
    for arm in ("beta-0-0", "beta-0.1-0"):
        assert (page.parent / arm / "align/model/model.safetensors").exists()
    base, arm = (page.parent / name / "sft/model/model.safetensors" for name in ("base-0", "beta-0-0"))
    assert base.read_bytes() == arm.read_bytes()


def test_what_is_done_is_reused_and_the_numbers_are_the_same(grown):
    root, _, page, held = grown
    model = page.parent / "beta-0-0/align/model/model.safetensors"
    before = model.stat().st_mtime_ns
    assert done("length", root)[2] == held
    assert model.stat().st_mtime_ns == before


def test_reward_models_of_one_sft_model(tmp_path):
    experiment, page, held = done("pooling", tmp_path)
    whole(experiment, page, held)
    assert len(held["readings"]) == 2 * (3 + 1)
    assert not (page.parent / "last-1000-0/sft").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in ("length", "pooling")])
def test_every_other_experiment_from_end_to_end(name, tmp_path):
    whole(*done(name, tmp_path))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(tmp_path):
    assert done("sampling", tmp_path / "a")[2]["readings"] == done("sampling", tmp_path / "b")[2]["readings"]


# ---- the command


def test_without_a_name_all_are_listed(palate_command):
    result = palate_command("lab")
    assert result.code == 0
    for name in EXPERIMENTS:
        assert name in result.out and experiment_of(name).question in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("hackin",), "Did you mean hacking?"),
        (("kl", "--bias", "length"), "--bias length was given with the experiment kl"),
        (("hacking", "--bias", "colour"), "one of length, format, sycophancy"),
        (("kl", "--seeds", "a"), "--seeds takes whole numbers"),
        (("kl", "--seeds", "0,²"), "--seeds takes whole numbers"),
        (("kl", "--seeds", "0,²"), "--seeds takes whole numbers"),
    ],
)
def test_wrong_use_is_said(words, said, palate_command, tmp_path):
    result = palate_command("lab", *words, "--runs", tmp_path)
    assert result.code == 2
    assert said in " ".join(result.err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_bias_makes_an_experiment_of_its_own():
    assert experiment_of("hacking", "format").name == "hacking-format"
    assert experiment_of("hacking").name == "hacking-length"
    with pytest.raises(UsageError):
        experiment_of("nothing")


# ---- what is said


def found(arms, seeds=1):
    """Readings with these figures; a figure given as a list has one value a seed."""
    return Found(
        tuple(
            Reading(
                arm=arm,
                seed=seed,
                figures={k: v[seed] if isinstance(v, list) else v for k, v in figures.items()},
            )
            for seed in range(seeds)
            for arm, figures in arms.items()
        )
    )


def test_helpers():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert rooted([(4, 1), (-0.1, 2)]) == ((2, 1), (0, 2))
    assert found({"a": {"x": [1, 3]}}, seeds=2).mean("a", "x") == 2


def leashed(kl, score, gold, adaptive_kl, best=None):
    arms = [f"beta-{price:g}" for price in leashes.PRICES]
    best = best or gold
    told = {
        arm: {"kl": kl[i], "score": score[i], "gold_before": 0.2, "gold": gold[i], "gold_best": best[i]}
        for i, arm in enumerate(arms)
    }
    told["adaptive"] = {"kl": adaptive_kl, "price": 0.04, "gold": 0.5}
    return leashes.seen(found(told))


def test_kl_says_what_came_out():
    # Gold at .001 fell by .8 − .3 = .5, more than .15.
    said = leashed((9, 3, 0.4), (4, 3, 1), (0.3, 0.7, 0.4), 1.6, best=(0.8, 0.7, 0.4))
    assert "the dearer a nat, the nearer the policy stayed, and the less reward it won" in said
    assert "it ended highest at 0.02" in said
    assert "At 0.001 gold had been higher on the way (by 0.50 at most) and fell again" in said
    assert "it held near its target" in said
    said = leashed((1, 3, 0.4), (4, 3, 1), (0.3, 0.4, 0.5), 9)
    assert "KL did not fall with every rise of the price, while reward did not follow" in said
    assert "At no price did gold fall much" in said
    assert "it had not brought the KL to its target" in said


def test_length_says_what_came_out():
    def said(free, held):
        common = {"length_before": 12, "kl": 3, "ended": 0.5, "gold_before": 0.2, "gold": -0.4}
        return growth.seen(found({"beta-0": common | {"length": free}, "beta-0.1": common | {"length": held}}))

    assert "as a reward of nothing but length asks" in said(80, 40)
    assert "the leash kept them shorter, though not as they were" in said(80, 40)
    assert "the leash kept them shorter. Gold changed by −0.60" in said(80, 15)
    assert "hardly longer: it learnt little" in said(13, 14)
    assert "the leash did not keep them shorter" in said(13, 14)


def test_pooling_tells_apart_only_what_intervals_tell_apart():
    def arm(accuracy):
        ends = {"accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
        return {"accuracy": accuracy, "of_ceiling": accuracy, **ends}

    arms = {
        "last-1000": 0.6,
        "mean-1000": 0.7,
        "last-4000": 0.7,
        "mean-4000": 0.6,
        "last-16000": 0.7,
        "mean-16000": 0.73,
    }
    said = pooling.seen(found({name: arm(value) for name, value in arms.items()}))
    first, second, third = said.split("With ")[1:]
    assert "the mean is clearly better" in first
    assert "the last token is clearly better" in second
    assert "do not tell them apart" in third


def hacked(none, stop=0.5, ensemble=(0.5, 0.5), alarms=2.0):
    """`none` is score before and after, gold before, best and after."""
    score, after, before, best, gold = none
    arm = {
        "score_before": score,
        "score": after,
        "gold_before": before,
        "gold_best": best,
        "gold": gold,
        "alarms": alarms,
    }
    arms = dict.fromkeys(hacking.PRICES, arm)
    arms["stop"] = {"gold": stop}
    arms["ensemble"] = {"gold": ensemble[0], "gold_best": ensemble[1]}
    return hacking.seen(found(arms), "length")


def test_hacking_is_said_where_it_happened():
    said = hacked((0.1, 3, 0.2, 0.5, -0.3), stop=0.48, ensemble=(-0.25, 0.5))
    assert "the proxy rose and gold fell, which is reward hacking" in said
    assert "The monitors raised 2 alarms" in said
    assert "96.0% of it: as much as is asked (90%)" in said  # .48/.5
    assert "an ensemble did not help" in said
    said = hacked((0.1, 3, 0.2, 0.5, 0.45), stop=0.3, ensemble=(0.7, 0.75), alarms=0.0)
    assert "gold did not clearly fall" in said
    assert "silent with every seed" in said
    assert "60.0% of it: less than is asked (90%)" in said  # .3/.5
    assert "an ensemble helped, and gold kept near its best" in said
    said = hacked((0.1, 0.1, -0.2, -0.1, -0.3), ensemble=(0, 0.5))
    assert "the proxy did not rise" in said and "a best below 0 has no share to keep" in said
    assert "an ensemble helped, and gold still fell" in said


def test_the_stop_is_held_to_its_worst_seed():
    arms = {
        name: {"score_before": 0, "score": 1, "gold_before": 0.2, "gold_best": 0.5, "gold": 0.1}
        for name in hacking.PRICES
    }
    arms |= {"stop": {"gold": [0.5, 0.4]}, "ensemble": {"gold": 0.1, "gold_best": 0.5}}
    said = hacking.seen(found(arms, seeds=2), "length")
    assert "with the worst seed, 80.0% of it: less than is asked" in said  # .4/.5


def peaked(gain, peak, bon=None):
    arms = {}
    for layers in peaks.LAYERS:
        for pairs in peaks.PAIRS:
            big = (layers == peaks.LAYERS[-1]) and (pairs == peaks.PAIRS[-1])
            arms[peaks.arm_of(layers, pairs)] = {
                "gain": gain[big], "bon_gain": 0.4, **({} if peak[big] is None else {"peak": peak[big]}),
                **({} if bon is None else {"bon_peak": bon}),
            }  # fmt: skip
    return peaks.seen(found(arms))


def test_the_peak_is_held_against_the_paper():
    assert peaked((0.3, 0.6), (0.8, 1.4)).count("higher and farther out, as in the paper") == 2
    assert peaked((0.3, 0.6), (0.8, None)).count("higher and farther out, as in the paper") == 2
    assert peaked((0.3, 0.6), (1.4, 0.8)).count("higher as in the paper, but not farther out") == 2
    assert peaked((0.6, 0.3), (0.8, 1.4)).count("farther out as in the paper, but not higher") == 2
    assert peaked((0.6, 0.3), (1.4, 0.8)).count(": not as in the paper") == 2
    assert peaked((0.3, 0.6), (None, None)).count("as in the paper; neither curve turns") == 2
    assert "in 0 of 9 arms" in peaked((0.3, 0.6), (1, 2)) and "n = 64 in 9 of 9" in peaked((0.3, 0.6), (1, 2), bon=1)


def test_objectives_says_what_the_sum_has_of_its_parts():
    def said(right, length, gold):
        part = {"correct_before": 0.8, "length_before": 12}
        return objectives.seen(
            found(
                {
                    "helpful": part | {"correct": 0.95, "length": 12, "gold": 0.6},
                    "concise": part | {"correct": 0.7, "length": 4, "gold": 0.5},
                    "both": part | {"correct": right, "length": length, "gold": gold},
                }
            )
        )

    assert "more often right than conciseness alone made them, and shorter" in said(0.9, 6, 0.8)
    assert "higher than with either alone" in said(0.9, 6, 0.8)
    assert "but no shorter than helpfulness" in said(0.9, 13, 0.55)
    assert "did not end higher" in said(0.9, 13, 0.55)
    assert "but no more often right than conciseness" in said(0.6, 6, 0.5)
    assert "neither shorter" in said(0.6, 13, 0.5)


def test_sampling_calls_a_difference_one_only_above_its_noise():
    def said(own, base):
        rows = {arm: {"differing": 0.9, "gap": 0.5, "common": 0.7, "on_policy": 0.7} for arm in candidates.ARMS}
        rows["sft-1"]["on_policy"], rows["base-1"]["on_policy"] = own, base
        rows["written"]["common"] = 0.9
        return candidates.seen(found(rows))

    assert "5.00 points more often: pairs from the policy itself teach more" in said(0.8, 0.75)
    assert "5.00 points less often: pairs from the policy itself teach less" in said(0.75, 0.8)
    assert "no difference worth a word" in said(0.75, 0.74)
    assert "On the common pairs the best reward model came from the testbed's written pairs (90.0%" in said(0.8, 0.75)
    assert "from the SFT model at temperature 1 (80.0%)" in said(0.8, 0.75)


def test_anchor_says_what_was_kept():
    def said(gold):
        perplexity = {"free": 3.0, "leash": 2.0, "ptx": 1.5, "both": 1.6}
        common = {"perplexity_before": 1.5, "correct_before": 0.8, "correct": 0.9}
        arms = {arm: common | {"perplexity": value, "gold": gold[arm]} for arm, value in perplexity.items()}
        return anchoring.seen(found(arms))

    golden = {"free": 0.2, "leash": 0.8, "ptx": 0.5, "both": 0.6}
    assert "PPO-ptx kept them best" in said(golden) and "Gold ended highest with the price of KL, at 0.80" in said(
        golden
    )
    assert "was not worth most" in said(golden)
    assert "What remembered best was also worth most" in said(golden | {"ptx": 0.9})


def test_a_peak_that_not_every_seed_reached_is_told_with_their_number():
    first = peaks.arm_of(peaks.LAYERS[0], peaks.PAIRS[0])
    seeds = [Reading(arm=first, seed=seed, figures={"peak": 1.2} if seed else {}) for seed in (0, 1, 2)]
    assert peaks._place(Found(tuple(seeds)), first) == "√KL = 1.20 (in 2 of 3 seeds)"
    assert peaks._place(Found(tuple(seeds[1:])), first) == "√KL = 1.20"
    assert peaks._place(Found(tuple(seeds[:1])), first) == "beyond what was measured"


def test_a_peak_beyond_what_was_measured_has_no_upper_end():
    from palate.evaluation import Fit, Peak

    peak = Peak(distance=1.0, low=0.8, high=None, height=0.5, height_low=0.4, height_high=0.6)
    fit = Fit("rl", alpha=0.5, beta=0.5, r_squared=0.9, points=5, peak=peak)
    assert peaks._peak(fit, "peak") == {"peak": 1.0, "peak_low": 0.8}
    line = peaks._line(fit, 2.0)
    assert line[0] == (0.0, 0.0) and line[-1] == pytest.approx((2.0, 2 * (0.5 - 0.5 * math.log(2))))


def asked(first, second, more=0.3):
    """Readings of the first round, all second ones and the control, a value a seed: gold at the end, and gained."""
    arms = {
        "first": {"gold_before": 0.2, "gold_best": first, "gold": 0.3, "gained": 0.1},
        "more-1000": {"gained": more},
    }
    for way in ("random", "aimed"):
        for votes in (250, 500, 1000):
            arms[f"{way}-{votes}"] = {"gold": second[way], "gold_best": 0.65, "gained": second[way] - 0.1}
    return found(arms)


def test_rounds_says_what_came_back_and_which_votes_were_worth_more():
    told = experiment_of("rounds").seen(asked(0.6, {"random": 0.5, "aimed": 0.7}))
    assert "gold went from 0.20 to 0.60 and fell again, to 0.30" in told
    assert "rose above the first one's peak on their way with every seed in 6 of 6 arms" in told
    assert "and ended above it with every seed in aimed-250, aimed-500 and aimed-1000." in told
    assert "0.60 against 0.40 at 250" in told and "more than random ones at 3 of 3 budgets" in told
    assert "1,000 more comparisons of the first kind gained 0.30." in told
    told = experiment_of("rounds").seen(asked(0.6, {"random": 0.6, "aimed": 0.5}))
    assert "and ended above it with every seed in none." in told and "at 0 of 3 budgets" in told


def test_empty_and_equal_answers_make_no_pair(tmp_path, monkeypatch):
    """A model that was hardly trained writes nothing now and then, and no file of pairs may hold an empty reply."""
    bench = Bench(tmp_path, 0, True, lambda phase: Quiet(), print)
    files = candidates.Files(bench, {}, "")
    sides = iter((("", "  ", "a", "b"), ("a", "b", "a", "c")))
    monkeypatch.setattr(candidates.Files, "count", lambda self, split: 4)
    monkeypatch.setattr(candidates.Files, "_answers", lambda self, *given: next(sides))
    rows = [json.loads(line) for line in files.drawn(candidates.SOURCES["base-1"], "known").read_text().splitlines()]
    assert [{row["chosen"], row["rejected"]} for row in rows] == [{"b", "c"}]
