"""The parts of the page that show the evidence: comparison, samples, alignment, reward model, fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from palate.report import charts
from palate.report.elements import absent, figure, table
from palate.report.findings import common, independent_score, judge_name, samples
from palate.report.reading import Comparison, Results, Run, Series
from palate.report.words import escaped, number, percent

LONGEST_SAMPLE = 1500  # characters of one text that are shown


def evaluation(run: Run) -> str:
    """Wins, ties and losses; means before and after; the same by kind of prompt."""
    results = run.results
    if results is None:
        return absent("No evaluation in this run directory: nothing has been compared or judged.")
    rate = results.win_rate
    description = f"The aligned model wins {rate.wins}, ties {rate.ties} and loses {rate.losses} comparisons."
    caption = f"{results.prompts:,} held-out prompts"
    if results.temperature is not None:
        caption += f", both models sampled at temperature {results.temperature:g}"
    caption += ". The dashed line is the half; the middle of the ties is the win rate."
    bar = figure("Aligned against SFT", caption, charts.outcomes("outcomes", description, rate))
    return f'<div class="narrow">{bar}</div>\n{_means(results)}\n{_groups(results)}'


def _means(results: Results) -> str:
    rows = [("Score", number(results.score.before), number(results.score.after))]
    if results.correct is not None:
        rows.append(("Correct answers", percent(results.correct.before), percent(results.correct.after)))
    rows.append(("Length, tokens", number(results.length.before), number(results.length.after)))
    if results.best_of_n is not None:
        best = results.best_of_n
        rows.append((f"Score of the best of {best.n} SFT samples", number(best.score), ""))
    judge = f'<p class="note">Scores are those of {escaped(judge_name(results))}.</p>'
    return table("means", ("Mean over all prompts", "SFT", "Aligned"), rows, numbers=2) + judge


def _groups(results: Results) -> str:
    rows = [
        (
            escaped(group.name),
            f"{group.count:,}",
            number(group.before),
            number(group.after),
            number(group.after - group.before),
            percent(group.win_rate),
        )
        for group in results.groups
        if group.name != "all"  # the one group of prompts that are of no kind
    ]
    if not rows:
        return ""
    header = ("Kind of prompt", "Prompts", "SFT", "Aligned", "Change", "Win rate")
    return table("groups", header, rows, numbers=5)


def side_by_side(comparisons: tuple[Comparison, ...]) -> str:
    """Five prompts with both answers, and the rule by which they were chosen."""
    rule = (
        f"Not picked by hand: all {len(comparisons):,} comparisons ordered from the clearest win to the "
        "clearest loss, the middle one of each fifth, and at least one loss where there is any."
    )
    return f'<p class="note">{rule}</p>\n' + "".join(_sample(one) for one in samples(comparisons))


def _sample(one: Comparison) -> str:
    outcomes = {"win": "the aligned model wins", "tie": "a tie", "loss": "the aligned model loses"}
    group = f"{escaped(one.group)} · " if one.group else ""
    before = _answer("SFT", one.before, one.score_before, preferred=one.outcome == "loss")
    after = _answer("Aligned", one.after, one.score_after, preferred=one.outcome == "win")
    return f"""<article class="sample"><p class="note">{group}{outcomes[one.outcome]}</p>
<p class="text prompt" dir="auto">{_shortened(one.prompt)}</p>
<div class="pair">{before}{after}</div></article>
"""


def _answer(model: str, text: str, score: float, *, preferred: bool) -> str:
    side = ' class="preferred"' if preferred else ""
    note = f"{model} · score {number(score)}{', preferred' if preferred else ''}"
    return f'<div{side}><p class="note">{note}</p><p class="text" dir="auto">{_shortened(text)}</p></div>'


def _shortened(text: str) -> str:
    if not text.strip():
        return '<span class="muted">(empty)</span>'
    left_out = len(text) - LONGEST_SAMPLE
    if left_out <= 0:
        return escaped(text)
    return f'{escaped(text[:LONGEST_SAMPLE])}… <span class="muted">({left_out:,} more characters)</span>'


def alignment(run: Run) -> str:
    """Curves over the iterations; where a score was watched that was not optimised, that score as well."""

    def curve(series: Series, name: str, title: str, caption: str, **marks) -> str:
        if not series.y:
            return ""
        return figure(title, caption, charts.curve(name, _told(title, series, "iterations"), series, **marks))

    if not run.metrics["align"]:
        return absent("No alignment in this run directory: no policy has been optimised.")
    score, spread, kl, length, entropy = (
        run.series("align", name) for name in ("score/mean", "score/std", "kl/sequence", "length/mean", "entropy")
    )
    name, independent = independent_score(run)
    band = "; the band is ± one standard deviation" if spread.y else ""
    panels = (
        curve(score, "score", "Score", f"what is optimised{band}", spread=spread),
        curve(independent, "independent", f"{name.capitalize()} score", "of the same completions, not optimised"),
        curve(kl, "kl", "KL from the SFT model", "nats a completion", target=run.kl_target, from_zero=True),
        curve(length, "length", "Length", "tokens a completion"),
        curve(entropy, "entropy", "Entropy", "nats a token"),
        _frontier(run),
    )
    return f'<div class="charts">{"".join(panels)}</div>'


def _frontier(run: Run) -> str:
    """The independent score over KL: where it bends down, the reward is being over-optimised (2210.10760)."""
    name, score = independent_score(run)
    kl, score = common(run.series("align", "kl/sequence"), score)
    if not score.y:
        return ""
    description = f"The {name} score of each iteration against its KL from the SFT model."
    chart = charts.score_over_kl("frontier", description, kl, score)
    return figure(f"{name.capitalize()} score over KL", "a dot an iteration, later ones stronger", chart)


def reward_model(run: Run) -> str:
    """Held-out accuracy beside the judges that it must beat and cannot pass, and how training went."""
    curves = _training(
        run,
        "reward",
        ("loss", "Training loss", "Bradley-Terry, nats a pair"),
        ("accuracy", "Training accuracy", "share of a batch’s pairs that are ordered as labelled"),
    )
    if "reward/accuracy" not in run.summary:
        return curves or absent("No reward model in this run directory.")
    named = (
        ("reward/accuracy", "Reward model"),
        ("reward/length_accuracy", "Length alone"),
        ("reward/ceiling", "Noise ceiling"),
    )
    rows = [_interval(run.summary, name, label) for name, label in named if name in run.summary]
    description = ", ".join(f"{row.label} {percent(row.estimate)}" for row in rows) + ", chance 50%."
    chart = charts.intervals("reward-accuracy", description, rows)
    panel = figure("Accuracy on held-out pairs", "with 95% interval; the dashed line is chance", chart)
    return f'<div class="beside">{panel}<div>{_how_to_read(run.summary)}</div></div>\n{curves}'


def _interval(summary: Mapping[str, float], name: str, label: str) -> charts.Interval:
    return charts.Interval(label, summary[name], summary.get(f"{name}_low"), summary.get(f"{name}_high"))


def _how_to_read(summary: Mapping[str, float]) -> str:
    sentences = []
    if "reward/length_accuracy" in summary:
        sentences.append("“Length alone” is a judge that prefers the longer completion and knows nothing else.")
    if "reward/ceiling" in summary:
        sentences.append("Annotators disagree, so no judge can pass the noise ceiling.")
    if "reward/mean_chosen" in summary and "reward/mean_rejected" in summary:
        chosen, rejected = summary["reward/mean_chosen"], summary["reward/mean_rejected"]
        sentences.append(f"Chosen completions score {number(chosen)} on average, rejected ones {number(rejected)}.")
    return "".join(f'<p class="note">{sentence}</p>' for sentence in sentences)


def fine_tuning(run: Run) -> str:
    """Held-out loss and perplexity, and how training went."""
    curves = _training(run, "sft", ("loss", "Training loss", "nats a completion token"))
    loss, perplexity = run.summary.get("sft/heldout_loss"), run.summary.get("sft/heldout_perplexity")
    if loss is None or perplexity is None:
        return curves or absent("No supervised fine-tuning in this run directory.")
    return (
        f"<p>On held-out demonstrations the loss is {number(loss)} nats a token, "
        f"a perplexity of {number(perplexity)}.</p>\n{curves}"
    )


def _training(run: Run, stage: str, *measures: tuple[str, str, str]) -> str:
    """The curves of a supervised stage for each (metric, title, caption) that it logged."""
    panels = []
    for metric, title, caption in measures:
        series = run.series(stage, metric)
        if series.y:
            description = _told(title, series, "steps")
            panels.append(figure(title, caption, charts.training_curve(f"{stage}-{metric}", description, series)))
    return f'<div class="charts">{"".join(panels)}</div>' if panels else ""


def _told(title: str, series: Series, unit: str) -> str:
    """A curve in words, for those who do not see it."""
    return f"{title}: from {number(series.y[0])} to {number(series.y[-1])} over {len(series.y)} {unit}."
