"""Stage `evaluate`: the model before alignment against the model after, both sampled alike: which is preferred on
held-out prompts, and what alignment cost elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palate import testbed
from palate.algorithms.makers import best_of_n_kl_bound
from palate.data.checks import shared_prompts
from palate.engine.files import encode_json, write_atomic
from palate.engine.generation import Generated
from palate.engine.interfaces import Completions, Reward
from palate.engine.seeding import derive
from palate.evaluation import (
    POINTS,
    Comparison,
    by_group,
    compare,
    length_controlled,
    win_rate,
    win_rate_bootstrap,
)
from palate.evaluation.comparison import Outcome as Judged
from palate.models import load_causal
from palate.recipe import TESTBED
from palate.records import Prompt
from palate.rewards import checked_scores
from palate.stages.context import Context, Outcome
from palate.stages.judges import gold_reward, reward_model, reward_of
from palate.stages.material import (
    Loaded,
    data_files,
    fitting_prompts,
    load_policy,
    read_section,
    records_of,
    sample,
    stage_records,
)
from palate.stages.trust import regression
from palate.stages.trust.measuring import log_ratios

MAX_NEW_TOKENS = 128

JUDGES = {"gold": "gold", "heldout-reward": "a held-out reward model", "reward": "the reward it was trained on"}


@dataclass(frozen=True)
class Answers:
    """One model's answers and what the judge gave each."""

    completions: Completions
    generated: Generated
    scores: list[float]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer, EOS included."""
        return self.generated.mask.sum(dim=1).tolist()


def run(context: Context) -> Outcome:
    """Compares, and writes `evaluate/results.json`, `evaluate/comparisons.jsonl` and `evaluate/unusual.jsonl`."""
    before_model = load_policy(context)
    after_model = Loaded(*load_causal(context.place("align", "model"), device=context.device))
    prompts = _prompts(context, before_model)
    judge = judge_of(context, before_model, prompts)
    before, after = (answers(context, model, judge, prompts) for model in (before_model, after_model))
    comparisons = [_comparison(prompt, row, before, after) for row, prompt in enumerate(prompts)]
    results = _results(context, comparisons, before, after)
    # Of the distribution that was sampled; greedy answers have none, and get the log-ratio at temperature 1.
    temperature = context.evaluate.sampling.temperature or 1.0
    results["kl"] = float(log_ratios(after_model, before_model, after.completions, temperature).mean())
    if judge.name == "gold":
        results |= _truth(context, before_model, prompts, before, after)
    costs, unusual = _costs(context, before_model, after_model, before, after)
    results |= costs
    results["verdict"] = verdict(results, "SFT" if context.recipe.sft is not None else "the model before alignment")
    _write(context, results, comparisons, unusual)
    return Outcome(_figures(results), _trained_on(context, prompts), len(prompts))


def _trained_on(context: Context, prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """What is to be said where prompts that are compared were trained on: what a model has seen it answers better."""
    recipe = context.recipe
    trained = [
        record
        for section in ("sft", "reward", "align")
        if getattr(recipe, section) is not None and data_files(recipe, section) != TESTBED
        for record in records_of(context.data.get(section) or read_section(recipe, section))
    ]
    finding = shared_prompts(trained, prompts)
    return (finding.message,) if finding.level == "warn" else ()


def judge_of(context: Context, policy: Loaded, prompts: Sequence[Prompt]) -> Reward:
    """Gold on the testbed, the training reward itself, or the reward model that learnt from pairs of its own."""
    if context.evaluate.judge == "gold":
        return gold_reward()
    if context.evaluate.judge == "reward":
        return reward_of(context, policy, prompts)
    return reward_model(context, context.place("reward", "judge", "model"), policy)


def _prompts(context: Context, policy: Loaded) -> list[Prompt]:
    """As many prompts as the recipe wants, spread evenly over those that leave room for an answer."""
    fitting = fitting_prompts(context, "evaluate", policy, stage_records(context, "evaluate"), answer_length(context))
    count = min(context.evaluate.count, len(fitting))
    return [fitting[index * len(fitting) // count] for index in range(count)]


def answer_length(context: Context) -> int:
    """The longest answer that is compared, in tokens."""
    return MAX_NEW_TOKENS if context.recipe.align is None else context.align.loop.max_new_tokens


def answers(context: Context, model: Loaded, judge: Reward, prompts: Sequence[Prompt]) -> Answers:
    """One answer a prompt; both models are given the same uniform numbers."""
    completions, generated = sample(
        model,
        prompts,
        seed=derive(context.seed, "evaluation"),
        rows=range(len(prompts)),
        samples=[0] * len(prompts),
        length=answer_length(context),
        sampling=context.evaluate.sampling,
    )
    return Answers(completions, generated, checked_scores(judge, completions).tolist())


def _comparison(prompt: Prompt, row: int, before: Answers, after: Answers) -> Comparison:
    return Comparison(
        prompt=prompt.text,
        before=before.completions.texts[row],
        after=after.completions.texts[row],
        score_before=before.scores[row],
        score_after=after.scores[row],
        outcome=compare(before.scores[row], after.scores[row]),
        group=str(prompt.fields.get("task", "all")),
        length_before=before.lengths[row],
        length_after=after.lengths[row],
    )


def _results(context: Context, comparisons: Sequence[Comparison], before: Answers, after: Answers) -> dict[str, Any]:
    outcomes: list[Judged] = [comparison.outcome for comparison in comparisons]
    # Two answers to one prompt are not independent: a file that holds a prompt twice has not two prompts.
    asked = [prompt.messages for prompt in before.completions.prompts]
    rate = win_rate(outcomes, asked)
    low, high = win_rate_bootstrap(outcomes, asked)
    controlled = length_controlled(
        [POINTS[outcome] for outcome in outcomes],
        [comparison.length_after - comparison.length_before for comparison in comparisons],
        asked,
    )
    return {
        "judge": context.evaluate.judge,
        "prompts": len(comparisons),
        "temperature": context.evaluate.sampling.temperature,
        "win_rate": asdict(rate),
        "bootstrap": {"low": low, "high": high},
        "length_controlled": None if controlled is None else asdict(controlled),
        "attainable": None,
        "score": {"before": mean(before.scores), "after": mean(after.scores)},
        "correct": None,
        "length": {"before": mean(before.lengths), "after": mean(after.lengths)},
        "best_of_n": None,
        "groups": by_group(comparisons),
    }


def _costs(
    context: Context, before_model: Loaded, after_model: Loaded, before: Answers, after: Answers
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is to be seen of regression, and the answers to unusual prompts; what does not apply is None."""
    length = answer_length(context)
    asked = regression.capability(context, before_model, after_model, length)
    if asked is None and context.evaluate.prompts == TESTBED:
        asked = regression.changed(right(before), right(after))
    unusual = regression.unusual(context, before_model, after_model, length)
    found = {
        "perplexity": regression.perplexity(context, before_model, after_model),
        "capability": asked,
        "unusual": None if unusual is None else unusual[0],
    }
    return found, [] if unusual is None else unusual[1]


def _figures(results: dict[str, Any]) -> dict[str, float]:
    """The results that are single numbers, by their names in the summary; what does not apply is absent."""
    figures = {
        "align/kl": results["kl"],
        "align/length_before": results["length"]["before"],
        "align/length_after": results["length"]["after"],
    }
    for name, source in (("win_rate", "win_rate"), ("win_rate_length_controlled", "length_controlled")):
        if results[source] is not None:
            estimate, low, high = (results[source][part] for part in ("estimate", "low", "high"))
            figures |= {f"align/{name}": estimate, f"align/{name}_low": low, f"align/{name}_high": high}
    changes = {"correct": "correct", "perplexity": "perplexity", "capability": "capability", "degenerate": "unusual"}
    for name, source in changes.items():
        if results[source] is not None:
            figures |= {f"align/{name}_{side}": results[source][side] for side in ("before", "after")}
    if results["judge"] == "gold":
        figures["align/gold_gain"] = results["score"]["after"] - results["score"]["before"]
        figures["align/attainable"] = results["attainable"]["win_rate"]
        if results["best_of_n"]["share_of_way"] is not None:
            figures["align/share_of_way"] = results["best_of_n"]["share_of_way"]
    return figures


def _truth(
    context: Context, model: Loaded, prompts: Sequence[Prompt], before: Answers, after: Answers
) -> dict[str, Any]:
    """What only the testbed can say: the share of right answers, what an always perfect answerer would win,
    best-of-n."""
    perfect = [testbed.gold(prompt.text, testbed.perfect(prompt.text)) for prompt in prompts]
    attainable = win_rate(compare(score, best) for score, best in zip(before.scores, perfect, strict=True))
    return {
        "attainable": {"win_rate": attainable.estimate},
        "correct": {"before": mean(right(before)), "after": mean(right(after))},
        "best_of_n": best_of_n(context, model, prompts, before, after),
    }


def right(given: Answers) -> list[float]:
    """1 for every answer that the testbed finds right, 0 for the others."""
    texts = zip(given.completions.prompts, given.completions.texts, strict=True)
    return [float(testbed.correct(prompt.text, text)) for prompt, text in texts]


def best_of_n(
    context: Context, model: Loaded, prompts: Sequence[Prompt], before: Answers, after: Answers
) -> dict[str, float | None]:
    """Best-of-n by gold with the model before alignment, and how much of the way there alignment went.

    All three means are over the same prompts, some of those compared.
    """
    settings = context.evaluate
    count, n = min(settings.best_of_prompts, len(prompts)), settings.best_of
    chosen = [index * len(prompts) // count for index in range(count)]
    completions, _ = sample(
        model,
        [prompts[row] for row in chosen],
        seed=derive(context.seed, "best of n"),
        rows=[row for row in range(count) for _ in range(n)],
        samples=[number for _ in range(count) for number in range(n)],
        length=answer_length(context),
        sampling=settings.sampling,
    )
    best = float(checked_scores(gold_reward(), completions).view(count, n).amax(dim=1).mean())
    started, reached = (mean([given.scores[row] for row in chosen]) for given in (before, after))
    return {
        "n": n,
        "prompts": count,
        "score": best,
        "kl_bound": best_of_n_kl_bound(n),
        "share_of_way": share_of_way(started, reached, best),
    }


def share_of_way(started: float, reached: float, best: float) -> float | None:
    """(reached − started) / (best − started); None where the best is no better than the start: there is no way then."""
    return (reached - started) / (best - started) if best > started else None


def verdict(results: dict[str, Any], started: str) -> str:
    """The result in one sentence, with the judge named, and what alignment `started` from."""
    rate = results["win_rate"]
    judge = JUDGES[results["judge"]]
    length = results["length"]["after"] / max(results["length"]["before"], 1e-9) - 1
    sign = "+" if length >= 0 else "−"
    return (
        f"Preferred over {started} on {rate['estimate']:.0%} [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}] of "
        f"{results['prompts']} "
        f"held-out prompts by {judge}, KL {results['kl']:.1f} nats, length {sign}{abs(length):.0%}."
    )


def mean(numbers: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(numbers) / len(numbers)


def _write(
    context: Context,
    results: dict[str, Any],
    comparisons: Sequence[Comparison],
    unusual: Sequence[dict[str, Any]],
) -> None:
    place = context.place("evaluate")
    _write_rows(place / "comparisons.jsonl", [asdict(comparison) for comparison in comparisons])
    _write_rows(place / "unusual.jsonl", unusual)
    write_atomic(place / "results.json", encode_json(results))


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomic(path, "".join(f"{encode_json(row)}\n" for row in rows))
