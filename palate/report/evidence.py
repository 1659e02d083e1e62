"""The parts of the page that show the evidence: comparison, answers, over-optimisation, monitors, stages in detail."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from palate.evaluation import Peak, RewardReport
from palate.report import charts
from palate.report.content import Report
from palate.report.differences import marked
from palate.report.elements import absent, figure, mark, table, under, with_interval
from palate.report.findings import JUDGES, Shown, common, judge_name
from palate.report.reading import Change, Results, Series, Watch
from palate.report.words import escaped, number, percent, percent_range, spoken

FIT_POINTS = 60  # of a fitted curve, as it is drawn
LONGEST_SAMPLE = 1500  # characters of one text that are shown

_KINDS = {
    "best": "Clearest win",
    "random": "At random",
    "worst": "Clearest losses",
    "flagged": "Named by monitors",
}


# ---- before and after


def evaluation(report: Report) -> str:
    """Wins, ties and losses; the win rate told in several ways; means before and after; the same by kind of prompt."""
    results = report.results
    if results is None:
        return absent("No evaluation in this run directory: nothing has been compared or judged.")
    rate, label = results.win_rate, report.manifest.start_label
    description = f"The aligned model wins {rate.wins}, ties {rate.ties} and loses {rate.losses} comparisons."
    caption = f"{results.prompts:,} held-out prompts"
    if results.temperature is not None:
        caption += f", both models sampled at temperature {results.temperature:g}"
    caption += ". The dashed line is the half; the middle of the ties is the win rate."
    bar = figure(
        f"Aligned against {report.manifest.start}",
        caption,
        charts.outcomes("outcomes", description, rate),
    )
    return f'<div class="charts">{bar}{_rates(results)}</div>\n{_means(results, label)}\n{_groups(results, label)}'


def _rates(results: Results) -> str:
    """The win rate beside those that do not take its assumptions."""
    rate = results.win_rate
    rows = [charts.Interval("Win rate", rate.estimate, rate.low, rate.high)]
    if results.bootstrap is not None:
        rows.append(charts.Interval("Bootstrap", rate.estimate, results.bootstrap.low, results.bootstrap.high))
    controlled = results.length_controlled
    if controlled is not None and controlled.estimate is not None:
        rows.append(charts.Interval("Equal length", controlled.estimate, controlled.low, controlled.high))
    description = ", ".join(f"{row.label} {percent(row.estimate)}" for row in rows) + "."
    return figure("Win rate, 95% intervals", "the dashed line is a half", charts.intervals("rates", description, rows))


def _means(results: Results, label: str) -> str:
    def row(label: str, change: Change | None, written=number) -> list[tuple[str, str, str]]:
        return [] if change is None else [(label, written(change.before), written(change.after))]

    rows = [
        *row("Score", results.score),
        *row("Correct answers", results.correct, percent),
        *row("Length, tokens", results.length),
        *row("Perplexity of held-out text", results.perplexity),
        *row("Capability questions answered rightly", results.capability, percent),
        *row("Unusual prompts whose answer degenerates", results.unusual, percent),
    ]
    if results.best_of_n is not None:
        best = results.best_of_n
        rows.append((f"Score of the best of {best.n} samples before", number(best.score), ""))
    judge = f'<p class="note">Scores are those of {escaped(judge_name(results))}.</p>'
    return table("means", ("Mean over all prompts", label, "Aligned"), rows, numbers=2) + judge


def _groups(results: Results, label: str) -> str:
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
    header = ("Kind of prompt", "Prompts", label, "Aligned", "Change", "Win rate")
    return table("groups", header, rows, numbers=5)


# ---- answers


def side_by_side(report: Report) -> str:
    """Prompts with both answers, what differs marked, and the rule by which they were chosen."""
    rule = (
        f"Not picked by hand: of {report.compared:,} comparisons the clearest win, two at random and the two clearest "
        "losses, then answers that an alarmed monitor names. Marked are words that only one of the two has."
    )
    label = report.manifest.start_label
    groups = groupby(report.samples, key=lambda shown: shown.kind)
    parts = (f"<h3>{_KINDS[kind]}</h3>\n{''.join(_sample(one, label) for one in shown)}" for kind, shown in groups)
    return f'<p class="note">{rule}</p>\n' + "".join(parts)


def _sample(shown: Shown, label: str) -> str:
    outcomes = {"win": "the aligned model wins", "tie": "a tie", "loss": "the aligned model loses"}
    monitors = f"flagged by {', '.join(map(spoken, shown.monitors))}" if shown.monitors else ""
    notes = " · ".join(filter(None, (shown.group, outcomes.get(shown.outcome, ""), monitors)))
    before, after = _differing(shown)
    sides = _answer("Aligned", after, shown.score_after, preferred=shown.outcome == "win")
    if shown.before is not None:
        sides = _answer(label, before, shown.score_before, preferred=shown.outcome == "loss") + sides
    return f"""<article class="sample"><p class="note">{escaped(notes)}</p>
<p class="text prompt" dir="auto">{_empty(shown.prompt) or escaped(_cut(shown.prompt)) + _rest(shown.prompt)}</p>
<div class="pair">{sides}</div></article>
"""


def _differing(shown: Shown) -> tuple[str, str]:
    before, after = shown.before or "", shown.after
    old, new = marked(_cut(before), _cut(after)) if shown.before is not None else ("", escaped(_cut(after)))
    return _empty(before) or old + _rest(before), _empty(after) or new + _rest(after)


def _answer(model: str, text: str, score: float | None, *, preferred: bool) -> str:
    side = ' class="preferred"' if preferred else ""
    scored = "" if score is None else f" · score {number(score)}"
    note = f"{model}{scored}{', preferred' if preferred else ''}"
    return f'<div{side}><p class="note">{note}</p><p class="text" dir="auto">{text}</p></div>'


def _cut(text: str) -> str:
    return text[:LONGEST_SAMPLE]


def _rest(text: str) -> str:
    left_out = len(text) - LONGEST_SAMPLE
    return f'… <span class="muted">({left_out:,} more characters)</span>' if left_out > 0 else ""


def _empty(text: str) -> str:
    return "" if text.strip() else '<span class="muted">(empty)</span>'


# ---- over-optimisation and monitors


def over_optimisation(report: Report) -> str:
    """Reward against KL: what was optimised beside a judge that was not, the fit, the peak, and what was decided."""
    watch = report.watch
    if watch is None or not watch.points:
        return _frontier(report) or absent("Not measured: no judge that was not optimised looked on during alignment.")
    tracks = [_track(watch, "proxy", "Score that is optimised")]
    if watch.judge:
        tracks.append(_track(watch, "heldout", f"Score that is not: {watch.judge}"))
    if watch.judge != "gold":
        tracks.append(_track(watch, "gold", "Score that is not: gold, which decides nothing"))
    tracks = [track for track in tracks if track.points.y]
    fit = watch.fit("heldout")
    peak = None if fit is None else fit.peak
    description = f"Scores over the KL at {len(watch.points)} looks. {watch.told}"
    chart = charts.over_kl("over-kl", description, tracks, peak=peak, kept=watch.kept)
    caption = "a dot a look, a band of ± one standard error"
    if any(track.fit for track in tracks):
        caption += "; the line is the curve of Gao et al. (2210.10760), d(α − β log d) with d = √KL"
    if peak is not None:
        caption += f". That of the score that is not optimised peaks at {_peak(peak)}"
    if fit is not None and fit.r_squared is not None:
        caption += f"; it explains {percent(fit.r_squared)} of how that score varied over the looks"
    told = f"<p>{escaped(watch.told)}</p>" if watch.told else ""
    return told + f'<div class="wide">{figure("What is optimised, and what is not", caption, chart)}</div>'


def _peak(peak: Peak) -> str:
    """The KL of a peak with its interval."""
    high = "beyond what was measured" if peak.high is None else number(peak.high**2)
    return f"{number(peak.distance**2)} nats (95% interval {number(peak.low**2)} to {high})"


def _track(watch: Watch, judged: str, label: str) -> charts.Track:
    """One judge's scores over the KL, and the curve fitted to their gain, where there is one."""
    looks = sorted((one for one in watch.points if getattr(one, judged) is not None), key=lambda look: look.kl)
    points = Series(tuple(max(look.kl, 0.0) for look in looks), tuple(getattr(look, judged) for look in looks))
    errors = tuple(getattr(look, f"{judged}_se", None) for look in looks)
    known = tuple(error for error in errors if error is not None)
    fit = watch.fit(judged)
    drawn = None
    if fit is not None and looks and getattr(watch.points[0], judged) is not None:
        start = getattr(watch.points[0], judged)  # gains are over the first look
        distances = [max(points.x) ** 0.5 * i / FIT_POINTS for i in range(FIT_POINTS + 1)]
        drawn = Series(tuple(d * d for d in distances), tuple(start + fit.gain(d) for d in distances))
    return charts.Track(label, points, known if len(known) == len(errors) else (), drawn)


def _frontier(report: Report) -> str:
    """Where nobody looked on at fixed KL steps: the independent score of each iteration over its KL."""
    kl, score = common(report.curve("align", "kl/sequence"), report.curve("align", report.independent))
    if not score.y:
        return ""
    name = JUDGES[report.independent]
    description = f"The {name} score of each iteration against its KL from {report.manifest.start}."
    chart = charts.over_kl("over-kl", description, [charts.Track(f"{name.capitalize()} score", Series(kl.y, score.y))])
    return f'<div class="wide">{figure("What is not optimised", "a dot an iteration", chart)}</div>'


def monitors(report: Report) -> str:
    """What each monitor read of the SFT model's answers and of the aligned model's, and which of them alarm."""
    if report.monitors is None:
        return absent("Not measured: no monitors in this run directory.")
    rows = [
        (
            f"{escaped(spoken(monitor.name))}{under(monitor.measures)}",
            mark("warn", "alarm") if monitor.alarm else mark("pass", "quiet"),
            number(monitor.baseline),
            number(monitor.value),
            number(monitor.threshold),
        )
        for monitor in sorted(report.monitors, key=lambda monitor: not monitor.alarm)
    ]
    reasons = "".join(
        f"<li><b>{escaped(spoken(monitor.name))}</b>: {escaped(monitor.reason)}</li>"
        for monitor in report.monitors
        if monitor.alarm and monitor.reason
    )
    why = f'<p class="note">Why an alarm matters:</p><ul class="note">{reasons}</ul>' if reasons else ""
    header = ("Monitor", "", report.manifest.start_label, "Aligned", "Alarm from")
    return table("monitors", header, rows, numbers=3) + why


# ---- the stages in detail


def alignment(report: Report) -> str:
    """Curves over the iterations; where a score was watched that was not optimised, that score as well."""

    def curve(series: Series, name: str, title: str, caption: str, **marks) -> str:
        if not series.y:
            return ""
        return figure(title, caption, charts.curve(name, _told(title, series, "iterations"), series, **marks))

    score, spread, kl, length, entropy = (
        report.curve("align", name) for name in ("score/mean", "score/std", "kl/sequence", "length/mean", "entropy")
    )
    independent, name = report.curve("align", report.independent), JUDGES.get(report.independent, "")
    band = "; the band is ± one standard deviation" if spread.y else ""
    panels = (
        curve(score, "score", "Score", f"what is optimised{band}", spread=spread),
        curve(independent, "independent", f"{name.capitalize()} score", "of the same completions, not optimised"),
        curve(
            kl, "kl", f"KL from {report.manifest.start}", "nats a completion", target=report.kl_target, from_zero=True
        ),
        curve(length, "length", "Length", "tokens a completion"),
        curve(entropy, "entropy", "Entropy", "nats a token"),
    )
    drawn = "".join(panels) or "".join(_trainings(report, "align", ("loss", "Training loss", "of the method")))
    if not drawn:
        return absent("No alignment in this run directory: no policy has been optimised.")
    return f'<div class="charts">{drawn}</div>'


def reward_model(report: Report) -> str:
    """Held-out accuracy beside what it must beat and cannot pass, calibration, slices, probes, and training."""
    curves = "".join(
        _trainings(
            report,
            "reward",
            ("loss", "Training loss", "Bradley-Terry, nats a pair"),
            ("accuracy", "Training accuracy", "share of a batch’s pairs that are ordered as labelled"),
        )
    )
    panels = "".join((_accuracy(report.figures), _reliability(report)))
    if not panels and not curves:
        return absent("No reward model in this run directory.")
    return f'<div class="charts">{panels}{curves}</div>\n{_slices(report)}\n{_probes(report)}'


def _accuracy(figures: Mapping[str, float]) -> str:
    if "reward/accuracy" not in figures:
        return ""
    labels = {
        "reward/accuracy": "Reward model",
        "reward/length_accuracy": "Length alone",
        "reward/ceiling": "Noise ceiling",
        "reward/train_accuracy": "Training pairs",
        "reward/gold_accuracy": "As gold orders",
        "reward/mismatched_accuracy": "Mismatched",
    }
    rows = [
        charts.Interval(label, figures[name], figures.get(f"{name}_low"), figures.get(f"{name}_high"))
        for name, label in labels.items()
        if name in figures
    ]
    description = ", ".join(f"{row.label} {percent(row.estimate)}" for row in rows) + ", chance 50%."
    panel = charts.intervals("reward-accuracy", description, rows)
    return figure("Accuracy on held-out pairs", _how_to_read(figures), panel)


def _reliability(report: Report) -> str:
    """What the reward model promises against how often it is right, before and after temperature scaling."""
    held = report.reward
    if held is None or not held.before.bins:
        return ""
    errors = f"expected calibration error {percent(held.before.error)} as scored"
    if held.after is not None:
        errors += f", {percent(held.after.error)} after temperature scaling (fitted on other pairs)"
    after = () if held.after is None else held.after.bins
    chart = charts.reliability("reliability", f"Reliability curve: {errors}.", held.before.bins, after)
    return figure("Promised and kept", f"how often the side with the higher score wins; {errors}", chart)


def _slices(report: Report) -> str:
    """Accuracy by margin and by slice, and what the scores make of length and format."""
    held = report.reward
    if held is None:
        return ""
    rows = [
        (
            escaped(one.name),
            f"{one.pairs:,}",
            with_interval(percent(one.accuracy), percent_range(one.low, one.high)),
        )
        for one in (*held.by_margin, *held.slices)
    ]
    more = [
        (
            escaped(one.feature),
            with_interval(number(one.correlation), f"{number(one.low)} to {number(one.high)}"),
            percent(one.judge.estimate),
            percent(one.labels.estimate),
        )
        for one in held.leanings
    ]
    header = ("Feature", "Correlation with score", "Model likes more", "Labels like more")
    parts = [
        table("slices", ("Held-out pairs, margin in nats", "Number", "Accuracy"), rows, numbers=2) if rows else "",
        _margins(held),
        table("leanings", header, more, numbers=3) if more else "",
    ]
    if held.agreement is not None:
        agreed = held.agreement
        parts.append(
            f"<p>Two of the ensemble’s {agreed.members} members order {percent(agreed.alike)} of the pairs alike "
            f"(95% interval {percent_range(agreed.low, agreed.high)}).</p>"
        )
    return "\n".join(filter(None, parts))


def _margins(held: RewardReport) -> str:
    """Where the scores of the preferred and of the rejected lie."""
    named = (
        ("Preferred", held.margins.chosen),
        ("Rejected", held.margins.rejected),
        ("Preferred less rejected", held.margins.difference),
    )
    rows = [(name, *map(number, quantiles)) for name, quantiles in named]
    return table("margins", ("Score", "5%", "25%", "half", "75%", "95%"), rows, numbers=5)


def _probes(report: Report) -> str:
    """How often an edit that should cost the answer something, or nothing, pleases the reward model."""
    held = report.reward
    if held is None:
        return ""
    if not held.probes:
        return absent("Not measured: no probes with edited answers.")
    rows = [
        (
            escaped(spoken(one.name)) + under(one.why),
            f"{one.count:,}",
            with_interval(percent(one.fooled), percent_range(one.fooled_low, one.fooled_high))
            if one.expects == "lower"
            else "",
            with_interval(number(one.change), f"{number(one.change_low)} to {number(one.change_high)}"),
        )
        for one in held.probes
    ]
    header = ("Edit that should not please", "Answers", "Fooled", "Change of score, nats")
    return table("probes", header, rows, numbers=3)


def _how_to_read(figures: Mapping[str, float]) -> str:
    sentences = ["with 95% intervals; the dashed line is chance."]
    if "reward/length_accuracy" in figures:
        sentences.append("“Length alone” prefers one length and knows nothing else.")
    if "reward/ceiling" in figures:
        sentences.append("Annotators disagree, so no judge can pass the noise ceiling.")
    if "reward/mismatched_accuracy" in figures:
        sentences.append("“Mismatched”: against an answer to another prompt.")
    return " ".join(sentences)


def fine_tuning(report: Report) -> str:
    """Held-out loss and perplexity, and how training went."""
    curves = "".join(_trainings(report, "sft", ("loss", "Training loss", "nats a completion token")))
    loss, perplexity = report.figures.get("sft/heldout_loss"), report.figures.get("sft/heldout_perplexity")
    drawn = f'<div class="charts">{curves}</div>' if curves else ""
    if loss is None or perplexity is None:
        return drawn or absent("No supervised fine-tuning in this run directory.")
    return (
        f"<p>On held-out demonstrations the loss is {number(loss)} nats a token, "
        f"a perplexity of {number(perplexity)}.</p>\n{drawn}"
    )


def _trainings(report: Report, stage: str, *measures: tuple[str, str, str]) -> list[str]:
    """The curves of a supervised stage for each (metric, title, caption) that it logged."""
    panels = []
    for metric, title, caption in measures:
        series = report.curve(stage, metric)
        if series.y:
            description = _told(title, series, "points")
            panels.append(figure(title, caption, charts.training_curve(f"{stage}-{metric}", description, series)))
    return panels


def _told(title: str, series: Series, unit: str) -> str:
    """A curve in words, for those who do not see it."""
    return f"{title}: from {number(series.y[0])} to {number(series.y[-1])} over {len(series.y)} {unit}."
