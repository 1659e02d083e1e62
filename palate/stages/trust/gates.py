"""Gates: what is asked of a stage's figures before the next stage may rest on it.

    figures of this stage and those before ─▶ GATES[stage] ─▶ Checks ─▶ pass, warn or stop

A gate reads figures of `summary.json` alone, so the verdict on a finished stage can be given again at any time. One
whose figures are absent is not asked: what does not apply cannot fail.

A stop is for what makes every later stage worthless, shown beyond chance; a warning for what a person should look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from palate.evaluation import Check, Level, worst

Judged = tuple[Level, str]

# ---- thresholds: supervised fine-tuning (losses in nats a token)

# The held-out rows are the same before and after, so a rise is no matter of luck; 0.05 nats make every token 5 % less
# likely than without any training.
CLEAR_RISE = 0.05
# A gap of a quarter of a nat: the perplexity of unseen answers is 28 % above that of seen ones.
OVERFITTING = 0.25
# A tenth of a nat for every doubling of the training: with the lower end of the interval above that, twice the
# training would still make every token 10 % likelier. Trainings at their end gained less than 0.05.
STEEP = 0.1
# A model that learnt to stop ends nearly every answer within twice the length of a long demonstration (0.95 and more
# of them on the testbed). Below 0.8, what alignment learns first is to avoid the price of a missing end.
EOS_WARN = 0.8
# Fewer than three in ten: the end was not learnt. Masked out of the loss, it comes by chance alone.
EOS_STOP = 0.3

# ---- thresholds: reward model

# Two people agree on 73 % of comparisons (InstructGPT, 2203.02155): 0.6 is under half of the way there from chance. A
# model whose whole interval lies below that, and reaches down to chance, gives alignment nothing to follow. A wider
# interval shows too few held-out pairs rather than a useless model.
USEFUL = 0.6
CHANCE = 0.5
# Three quarters of the way from chance to the ceiling: simple worlds are learnt to 95 %, and a quarter missing is a
# model too small, or too few pairs.
WAY_TO_CEILING = 0.75
# A mean error of 0.05 in the probability of being preferred, beyond what so few pairs show by chance, after the scale
# was set on the same kind of pairs: scores are no log-odds then, and a KL coefficient that was tuned for log-odds is
# another one.
MISCALIBRATED = 0.05
# A correlation of 0.5: a quarter of the variance of the scores is explained by counting tokens.
LENGTH_CORRELATION = 0.5
# Five points more, surely, on pairs that were trained on: beyond what one epoch of a model that generalises shows.
MEMORISED = 0.05

# ---- thresholds: alignment

# Stiennon et al. (2009.01325, fig. 5) found people's preference parting from the reward model's beyond about 10 nats a
# completion of some 50 tokens; longer completions have room for more, 0.2 nats a token.
KL_BUDGET, KL_BUDGET_TOKEN = 10.0, 0.2
# Five times as far, hardly any token is still the reference's choice.
KL_STOP = 5.0
# The testbed's honest runs end at a third of the entropy they began with; at a tenth, one answer a prompt is left.
ENTROPY_SHARE = 0.1
# Answers twice as long are what length-hacking looks like first (Singhal et al., 2310.03716); a third is too short for
# what demonstrations say.
LENGTH_LOW, LENGTH_HIGH = 1 / 3, 2.0
# A tenth fewer answers that end is more than two batches of 64 differ by chance.
EOS_FALL = 0.1
# A critic that explains less than a tenth of the returns' variance is hardly better than their mean.
EXPLAINED = 0.1
# A fifth of the gain lost again. The means of two looks at the same 128 prompts differ by less than that by chance once
# there is a gain worth the name.
LOST = 0.2
# On the scale of gold an answer that is right and one that is not are 1 or more apart.
GOLD_FALL = 0.1
# One nat a token: prompts e times less likely, token by token, than those that SFT saw.
FOREIGN_PROMPTS = 1.0

# ---- thresholds: evaluation

# One half of the answers preferred is what an unchanged model gets.
EVEN = 0.5
# A perplexity of held-out text a quarter higher: more than the tenth or so that alignment's tax costs.
PERPLEXITY_RISE = 1.25
# Five of a hundred questions that were answered before, or of unusual prompts that were met sensibly.
CAPABILITY_FALL = 0.05
DEGENERATE_RISE = 0.05


@dataclass(frozen=True, slots=True)
class Gate:
    """One thing that is asked: `judge` is called with the figures named, of which the first is the one judged, and
    those of `optional` that are there, by their last name."""

    name: str
    rule: str
    figures: tuple[str, ...]
    judge: Callable[..., Judged]
    advice: str
    optional: tuple[str, ...] = ()

    def check(self, figures: Mapping[str, float]) -> Check | None:
        """What came of it; None where a figure is absent."""
        if any(name not in figures for name in self.figures):
            return None
        further = {name.rpartition("/")[2]: figures[name] for name in self.optional if name in figures}
        level, reason = self.judge(*(figures[name] for name in self.figures), **further)
        advice = "" if level == "pass" else self.advice
        return Check(self.name, level, self.figures[0], figures[self.figures[0]], self.rule, reason, advice)


def checks(stage: str, figures: Mapping[str, float]) -> tuple[Check, ...]:
    """All that is asked of a stage, by the figures of it and of the stages before it."""
    asked = (gate.check(figures) for gate in (*GATES[stage], *_named(stage, figures)))
    return tuple(check for check in asked if check is not None)


def verdict(
    stage: str, summary: Mapping[str, float], figures: Mapping[str, float], concerns: Iterable[str]
) -> dict[str, Any]:
    """What `run.json` says of a stage that has these figures, by the gates of today and its own concerns."""
    found, concerns = checks(stage, summary), list(concerns)
    level = worst(found)
    return {
        "level": "warn" if level == "pass" and concerns else level,
        "figures": dict(figures),
        "reasons": [*concerns, *(check.reason for check in found if check.level != "pass")],
        "checks": [asdict(check) for check in found],
    }


def _between(low: float, high: float) -> str:
    """A 95 % interval of a share, in per cent."""
    return f"[{100 * low:z.1f}, {100 * high:z.1f}]"


# ---- supervised fine-tuning


def _against_base(loss: float, base: float) -> Judged:
    moved = f"from {base:.3f} to {loss:.3f} nats a token"
    if loss < base:
        return "pass", f"The held-out loss fell {moved}."
    if loss > base + CLEAR_RISE:
        return "stop", f"The held-out loss rose {moved}: training made unseen demonstrations less likely."
    return "warn", f"The held-out loss went {moved}: training did not make unseen demonstrations likelier."


def _against_unigram(loss: float, unigram: float) -> Judged:
    figures = f"{loss:.3f} nats a token held out, {unigram:.3f} by word counts alone"
    if loss < unigram:
        return "pass", f"The model knows more than how often each token occurs: {figures}."
    return "stop", f"The model learnt no more than how often each token occurs: {figures}."


def _ends(rate: float) -> Judged:
    said = f"{rate:.1%} of sampled answers end by themselves"
    if rate >= EOS_WARN:
        return "pass", f"{said}."
    if rate >= EOS_STOP:
        return "warn", f"Only {said}."
    return "stop", f"Only {said}: the end of an answer was not learnt."


def _overfitting(loss: float, seen: float) -> Judged:
    figures = f"{loss:.3f} nats a token held out, {seen:.3f} on what it was trained on"
    if loss - seen <= OVERFITTING:
        return "pass", f"Unseen demonstrations are about as likely as seen ones: {figures}."
    return "warn", f"The demonstrations were learnt by heart: {figures}."


def _template(same: float) -> Judged:
    if same == 1:
        return "pass", "The saved model writes prompts exactly as they were trained on."
    return (
        "stop",
        f"Only {same:.1%} of the prompts have, in the saved model's template, the token ids that were trained on.",
    )


def _still_falling(slope: float, low: float) -> Judged:
    figures = f"the loss fell by {slope:.3f} nats a token for each doubling of the training, {low:.3f} at least"
    if low <= STEEP:
        return "pass", f"Training had come near its end: over its second half {figures}."
    return "warn", f"Training ended while there was much to gain: over its second half {figures}."


_SFT = (
    Gate(
        "held-out loss against base",
        "it is below that of the model before training",
        ("sft/heldout_loss", "sft/base_loss"),
        _against_base,
        "Lower sft.learning_rate (a tenth of it is a safe first try) and look at `loss` and `grad_norm` in "
        "sft/metrics.jsonl; with several epochs on few rows, take fewer.",
    ),
    Gate(
        "held-out loss against word counts",
        "it is below that of a unigram model of the training completions",
        ("sft/heldout_loss", "sft/unigram_loss"),
        _against_unigram,
        "Train for longer (more sft.epochs or demonstrations), or start from a model that knows the language; where "
        "the loss does not move at all, raise sft.learning_rate.",
    ),
    Gate(
        "answers that end",
        f"{EOS_WARN:.0%} or more of sampled answers end within twice the length of a long demonstration",
        ("sft/eos_rate",),
        _ends,
        "See with `palate data inspect FILE --model MODEL` that every completion closes with the stop token, that the "
        "model's template and its eos_token agree, and train for longer.",
    ),
    Gate(
        "overfitting",
        f"it is at most {OVERFITTING:g} nats above that on training rows",
        ("sft/heldout_loss", "sft/train_loss"),
        _overfitting,
        "Take fewer sft.epochs or more demonstrations; look for copies of few demonstrations in the data.",
    ),
    Gate(
        "template same in training and generation",
        "every prompt has the same token ids in both",
        ("sft/template_same",),
        _template,
        "The tokenizer or its chat template changed between training and saving: restore the tokenizer's files, and "
        "train again with --fresh.",
    ),
    Gate(
        "training near its end",
        f"a doubling would gain at most {STEEP:g} nats a token",
        ("sft/loss_slope", "sft/loss_slope_low"),
        _still_falling,
        "Train for longer: more sft.epochs or demonstrations, or a higher sft.learning_rate.",
    ),
)

# ---- reward model


def _against_chance(accuracy: float, low: float, high: float, pairs: float) -> Judged:
    figures = f"right on {accuracy:.1%} {_between(low, high)} of {pairs:.0f} held-out pairs"
    if low > CHANCE:
        return "pass", f"The reward model is {figures}."
    if high < CHANCE:
        return "stop", f"The reward model is {figures}, fewer than a coin: it learnt the opposite of these labels."
    if high < USEFUL:
        return (
            "stop",
            f"The reward model is {figures}, no more than a coin: it learnt nothing that alignment could use.",
        )
    return "warn", f"The reward model is {figures}: too few pairs to show that it is better than a coin."


def _way_round(rate: float, low: float, high: float) -> Judged:
    figures = f"the preferred answer outscores an answer to another question on {rate:.1%} {_between(low, high)}"
    if high >= CHANCE:
        return "pass", f"Labels stand the right way round: {figures} of prompts."
    return "stop", f"The labels seem to be flipped: {figures} of prompts only."


def _as_gold(rate: float, gold_accuracy_low: float | None = None, gold_accuracy_high: float | None = None) -> Judged:
    low, high = (rate if end is None else end for end in (gold_accuracy_low, gold_accuracy_high))
    figures = f"{rate:.1%} {_between(low, high)} of held-out pairs"
    if low > CHANCE:
        return "pass", f"The reward model orders {figures} as gold does."
    if high < CHANCE:
        return "stop", f"The reward model orders only {figures} as gold does: it prefers what is worse."
    return "warn", f"The reward model orders {figures} as gold does, which a coin might."


def _against_length(low: float, accuracy: float, length: float) -> Judged:
    figures = f"{accuracy:.1%} against {length:.1%} for counting length alone"
    if low > length:
        return "pass", f"The reward model knows more than length: {figures}."
    return "warn", f"The reward model is not clearly better than counting length: {figures}."


def _against_ceiling(accuracy: float, ceiling: float) -> Judged:
    figures = f"{accuracy:.1%} right where labels allow {ceiling:.1%}"
    if ceiling <= CHANCE:
        return "warn", f"The labels contradict one another so much that nothing can be learnt: {figures}."
    share = (accuracy - CHANCE) / (ceiling - CHANCE)
    if share >= WAY_TO_CEILING:
        return "pass", f"Most of what the labels hold was learnt: {figures}."
    return "warn", f"Much of what the labels hold was not learnt: {figures}."


def _calibrated(ece: float, ece_noise: float = 0.0) -> Judged:
    figures = f"off by {ece:.1%} on average, {ece_noise:.1%} of it by chance"
    if ece <= ece_noise + MISCALIBRATED:
        return "pass", f"Probabilities of being preferred, as scores give them, are right or nearly so: {figures}."
    return "warn", f"Probabilities of being preferred, as scores give them, are {figures}."


def _by_length(correlation: float, low: float, high: float) -> Judged:
    figures = f"their correlation is {correlation:+.2f} [{low:+.2f}, {high:+.2f}]"
    if low <= LENGTH_CORRELATION and high >= -LENGTH_CORRELATION:
        return "pass", f"Scores do not hang on length: {figures}."
    return "warn", f"Scores hang on length, {'longer' if correlation > 0 else 'shorter'} being better: {figures}."


def _memorised(gap: float, low: float, high: float, seen: float) -> Judged:
    more = f"{100 * gap:z.1f} points [{100 * low:z.1f}, {100 * high:z.1f}] more"
    figures = f"right on {seen:.1%} of pairs it was trained on, {more} than of held-out ones"
    if low <= MEMORISED:
        return "pass", f"The reward model holds on unseen pairs: {figures}."
    return "warn", f"The reward model learnt pairs by heart: {figures}."


_REWARD = (
    Gate(
        "accuracy against chance",
        "its interval lies above 50 %",
        ("reward/accuracy", "reward/accuracy_low", "reward/accuracy_high", "reward/heldout"),
        _against_chance,
        "Look at a handful of pairs (`palate data inspect FILE`): are chosen and rejected the right way round, and "
        "would two people agree? Then more pairs, a larger reward.model, or another reward.learning_rate; with a wide "
        "interval, hold out more pairs.",
    ),
    Gate(
        "labels the right way round",
        "the preferred answer outscores an answer to another prompt on half of the prompts or more",
        ("reward/mismatched_accuracy", "reward/mismatched_accuracy_low", "reward/mismatched_accuracy_high"),
        _way_round,
        "Look at a handful of pairs (`palate data inspect FILE`) and exchange chosen and rejected if they are swapped, "
        "in the file or by reward.mapping.",
    ),
    Gate(
        "agreement with gold",
        "it orders more than half of the pairs as gold does",
        ("reward/gold_accuracy",),
        _as_gold,
        "The annotators of this testbed do not prefer what is better: see testbed.random_labels and testbed.biases.",
        ("reward/gold_accuracy_low", "reward/gold_accuracy_high"),
    ),
    Gate(
        "accuracy against length alone",
        "the lower end of its interval lies above the accuracy of counting length",
        ("reward/accuracy_low", "reward/accuracy", "reward/length_accuracy"),
        _against_length,
        "Alignment would learn a length. Add pairs of like length, or in which the shorter side is preferred.",
    ),
    Gate(
        "accuracy against the ceiling",
        f"it is {WAY_TO_CEILING:.0%} or more of the way from chance to the ceiling",
        ("reward/accuracy", "reward/ceiling"),
        _against_ceiling,
        "More pairs, a larger reward.model, or more reward.epochs.",
    ),
    Gate(
        "calibration",
        f"the expected calibration error is at most {MISCALIBRATED:g} above what chance gives",
        ("reward/ece",),
        _calibrated,
        "Hold out more pairs, of the kind that is trained on: the scores' scale is set on them. Until then, choose the "
        "KL coefficient by the KL that it gives.",
        ("reward/ece_noise",),
    ),
    Gate(
        "score against length",
        f"the correlation of score and length is at most {LENGTH_CORRELATION:g} in size",
        ("reward/length_correlation", "reward/length_correlation_low", "reward/length_correlation_high"),
        _by_length,
        "Watch length/mean during alignment; add pairs that contradict the habit, or a second reward on length.",
    ),
    Gate(
        "training against held-out pairs",
        f"it is not clearly more than {100 * MEMORISED:.0f} points more often right on pairs it was trained on",
        ("reward/gap", "reward/gap_low", "reward/gap_high", "reward/train_accuracy"),
        _memorised,
        "One epoch, more prompts, or a larger optimiser.weight_decay.",
    ),
)


def _fooled(name: str) -> Gate:
    """The gate of one probe; its figures are named after it."""
    words = name.rpartition("/")[2].replace("_", " ")

    def judge(rate: float, **ends: float) -> Judged:
        low = next((value for end, value in ends.items() if end.endswith("_low")), rate)
        figures = f"prefers the edited answer of the probe “{words}” {rate:.1%} of the time"
        if low <= CHANCE:
            return "pass", f"The reward model {figures}."
        return "warn", f"The reward model is fooled: it {figures}."

    return Gate(
        f"probe: {words}",
        "it does not prefer the edited answer more often than not",
        (name,),
        judge,
        "Add pairs in which the edited answer is rejected, and expect alignment to find this edit.",
        (f"{name}_low",),
    )


# ---- alignment


def _score(final: float, initial: float) -> Judged:
    moved = f"from {initial:z.3f} to {final:z.3f}"
    if final > initial:
        return "pass", f"The score rose {moved}."
    return "warn", f"The score went {moved}: alignment did not raise what it was to raise."


def _kl(kl: float, length: float) -> Judged:
    budget = max(KL_BUDGET, KL_BUDGET_TOKEN * length)
    figures = f"{kl:z.2f} nats a completion from the reference, with a budget of {budget:.0f}"
    if kl <= budget:
        return "pass", f"The policy is {figures}."
    if kl <= KL_STOP * budget:
        return "warn", f"The policy is far from where it started: {figures}."
    return "stop", f"The policy has left the reference: {figures}."


def _entropy(final: float, initial: float) -> Judged:
    moved = f"from {initial:z.3f} to {final:z.3f} nats a token"
    if final >= ENTROPY_SHARE * initial:
        return "pass", f"Entropy went {moved}."
    return "warn", f"Entropy collapsed {moved}: a prompt has one answer left."


def _length(final: float, initial: float) -> Judged:
    moved = f"from {initial:.1f} to {final:.1f} tokens"
    if LENGTH_LOW * initial <= final <= LENGTH_HIGH * initial:
        return "pass", f"Answers went {moved}."
    return "warn", f"Answers changed their length {moved}."


def _still_ends(final: float, initial: float) -> Judged:
    moved = f"{final:.1%} of answers end by themselves, {initial:.1%} before"
    if final >= initial - EOS_FALL:
        return "pass", f"{moved}."
    if final >= EOS_STOP or final > initial / 2:
        return "warn", f"Fewer answers end: {moved}."
    return "stop", f"Alignment unlearnt how to end: {moved}."


def _critic(explained: float) -> Judged:
    if explained >= EXPLAINED:
        return "pass", f"The critic explains {explained:.0%} of the variance of returns."
    return "warn", f"The critic explains {explained:.0%} of the variance of returns, hardly more than their mean would."


def _heldout(final: float, best: float, initial: float) -> Judged:
    figures = f"the held-out judge gave {initial:z.3f} at the start, {best:z.3f} at best, {final:z.3f} at the end"
    if final < initial:
        return "warn", f"The policy is worse than it began: {figures}."
    if best - final > LOST * (best - initial):
        return "warn", f"The policy was better on the way: {figures}."
    return "pass", f"The policy is about as good as it ever was: {figures}."


def _gold(
    final: float,
    initial: float,
    score_initial: float | None = None,
    score_final: float | None = None,
    stopped_past_peak: float = 0.0,
) -> Judged:
    moved = f"gold went from {initial:z.3f} to {final:z.3f}"
    if final >= initial:
        return "pass", f"The policy is no worse by the truth: {moved}."
    rose = score_initial is not None and score_final is not None and score_final > score_initial
    if final >= initial - GOLD_FALL or stopped_past_peak or not rose:
        return "warn", f"The policy became worse by the truth: {moved}."
    return (
        "stop",
        f"The reward was hacked: {moved}, while the score rose from {score_initial:z.3f} to {score_final:z.3f}.",
    )


def _alarms(count: float) -> Judged:
    if count == 0:
        return "pass", "No monitor of the answers alarms."
    return "warn", f"{count:.0f} monitor{'s' if count > 1 else ''} of the answers alarm{'s' if count == 1 else ''}."


def _prompts(loss: float, seen: float) -> Judged:
    figures = f"{loss:.3f} nats a token, against {seen:.3f} for those of the demonstrations"
    if loss <= seen + FOREIGN_PROMPTS:
        return "pass", f"The prompts are of the kind that SFT saw: {figures}."
    return "warn", f"The prompts are of another kind than those that SFT saw: {figures}."


_ALIGN = (
    Gate(
        "score up",
        "it is above that at the start",
        ("align/score_final", "align/score_initial"),
        _score,
        "Look at score/mean in align/metrics.jsonl: flat, take more iterations or a lower KL coefficient; falling, a "
        "lower align.learning_rate.",
    ),
    Gate(
        "KL within budget",
        f"it is at most {KL_BUDGET:g} nats a completion, or {KL_BUDGET_TOKEN:g} nats a token",
        ("align/kl_final", "align/length_final"),
        _kl,
        "Raise the KL coefficient, lower align.learning_rate, or take fewer iterations.",
    ),
    Gate(
        "entropy",
        f"it is {ENTROPY_SHARE:.0%} or more of that at the start",
        ("align/entropy_final", "align/entropy_initial"),
        _entropy,
        "Raise the KL coefficient or lower align.learning_rate; read align/samples.jsonl for answers all alike.",
    ),
    Gate(
        "length",
        f"it is between {LENGTH_LOW:.2f} and {LENGTH_HIGH:g} times that at the start",
        ("align/length_final", "align/length_initial"),
        _length,
        "Read align/samples.jsonl: is the change what people asked for, or the reward's habit? Compare "
        "reward/length_correlation.",
    ),
    Gate(
        "answers that end",
        f"their share fell by {EOS_FALL:.0%} at most",
        ("align/eos_rate_final", "align/eos_rate_initial"),
        _still_ends,
        "Raise align.max_new_tokens or align.shaping.missing_eos_penalty; see whether the reward likes longer answers.",
    ),
    Gate(
        "critic",
        f"it explains {EXPLAINED:.0%} or more of the variance of returns",
        ("align/explained_variance_final",),
        _critic,
        "Raise the critic's learning rate, start it from the reward model (critic.init), or take an algorithm without "
        "one (rloo, grpo).",
    ),
    Gate(
        "held-out judge against its best",
        f"at most {LOST:.0%} of what was gained on the way was lost again",
        ("align/heldout_final", "align/heldout_best", "align/heldout_initial"),
        _heldout,
        "Take fewer iterations or a higher KL coefficient, an ensemble of reward models, or fresh pairs on what the "
        "policy writes now.",
    ),
    Gate(
        "score against gold",
        f"gold did not fall; by more than {GOLD_FALL:g} while the score rose is hacking",
        ("align/gold_final", "align/gold_initial"),
        _gold,
        "Raise the KL coefficient, take fewer iterations, or mend the reward model: its pairs do not say "
        "what is better.",
        ("align/score_initial", "align/score_final", "align/stopped_past_peak"),
    ),
    Gate(
        "monitors",
        "none alarms",
        ("align/alarms",),
        _alarms,
        "align/monitors.json says which, and names answers to read.",
    ),
    Gate(
        "prompts like those of SFT",
        f"a token of theirs is at most {FOREIGN_PROMPTS:g} nats less likely",
        ("align/prompt_loss", "sft/prompt_loss"),
        _prompts,
        "Align on prompts of the kind that demonstrations and pairs have, or add such demonstrations and pairs.",
    ),
)

# ---- evaluation


def _preferred(rate: float, low: float, high: float) -> Judged:
    figures = f"preferred on {rate:.1%} {_between(low, high)} of prompts"
    if low > EVEN:
        return "pass", f"The aligned model is {figures}."
    if high < EVEN:
        return "stop", f"The aligned model is worse than the one before: {figures}."
    return "warn", f"The aligned model is not clearly better than the one before: {figures}."


def _preferred_at_length(rate: float, low: float, high: float) -> Judged:
    level, reason = _preferred(rate, low, high)
    return level, f"With length held equal: {reason[0].lower()}{reason[1:]}"


def _perplexity(
    after: float, before: float, capability_after: float | None = None, capability_before: float | None = None
) -> Judged:
    """Held-out demonstrations become unlikely when a model forgets, and also when it drops a manner that they have and
    people do not want: whether it still answers rightly tells the two apart."""
    moved = f"from {before:z.2f} to {after:z.2f}"
    if after <= PERPLEXITY_RISE * before:
        return "pass", f"The perplexity of held-out text went {moved}."
    if capability_after is None or capability_before is None:
        return "warn", f"The perplexity of held-out text rose {moved}: the model forgets, or drops a manner of writing."
    if capability_after >= capability_before:
        kept = f"{capability_after:.1%} of capability questions are answered rightly, {capability_before:.1%} before"
        return "pass", f"The perplexity of held-out text rose {moved}, and nothing was forgotten: {kept}."
    return "warn", f"The perplexity of held-out text rose {moved}, and fewer answers are right: the model forgets."


def _capability(after: float, before: float) -> Judged:
    moved = f"{after:.1%} of capability questions are answered rightly, {before:.1%} before"
    if after >= before - CAPABILITY_FALL:
        return "pass", f"{moved}."
    return "warn", f"Fewer are right: {moved}."


def _degenerate(after: float, before: float) -> Judged:
    moved = f"{after:.1%} of unusual prompts get a degenerate answer, {before:.1%} before"
    if after <= before + DEGENERATE_RISE:
        return "pass", f"{moved}."
    return "warn", f"More answers degenerate: {moved}."


_TAX = "Raise the KL coefficient, take fewer iterations, or mix demonstrations into alignment ([align.mix])."

_EVALUATE = (
    Gate(
        "win rate",
        "its interval lies above one half",
        ("align/win_rate", "align/win_rate_low", "align/win_rate_high"),
        _preferred,
        "Where it straddles one half, evaluate on more prompts (evaluate.count); else read the comparisons for what "
        "got worse, and align for longer, or with a better reward.",
    ),
    Gate(
        "win rate at equal length",
        "its interval lies above one half",
        (
            "align/win_rate_length_controlled",
            "align/win_rate_length_controlled_low",
            "align/win_rate_length_controlled_high",
        ),
        _preferred_at_length,
        "Where the win rate itself is above one half, what was won is won by length: look at "
        "reward/length_correlation, and add pairs that contradict it. Else see the win rate.",
    ),
    Gate(
        "perplexity of held-out text",
        f"it is at most {PERPLEXITY_RISE:g} times that before, or no fewer capability questions are right",
        ("align/perplexity_after", "align/perplexity_before"),
        _perplexity,
        _TAX,
        ("align/capability_after", "align/capability_before"),
    ),
    Gate(
        "capability",
        f"at most {CAPABILITY_FALL:.0%} of questions fewer are right",
        ("align/capability_after", "align/capability_before"),
        _capability,
        _TAX,
    ),
    Gate(
        "unusual prompts",
        f"at most {DEGENERATE_RISE:.0%} more of them get a degenerate answer",
        ("align/degenerate_after", "align/degenerate_before"),
        _degenerate,
        _TAX,
    ),
)

GATES: Mapping[str, tuple[Gate, ...]] = {"sft": _SFT, "reward": _REWARD, "align": _ALIGN, "evaluate": _EVALUATE}


def _named(stage: str, figures: Mapping[str, float]) -> tuple[Gate, ...]:
    """The gates of the reward model's probes, of which there are as many as there are figures."""
    ends = ("_low", "_high")
    probes = sorted(name for name in figures if name.startswith("reward/fooled/") and not name.endswith(ends))
    return tuple(map(_fooled, probes)) if stage == "reward" else ()
