"""What to ask next: candidates that loaded models write, scored by reward models, and a selection of questions.

Nothing is drawn from a hidden stream: the same call gives the same items.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palate.collect.candidates import Drawing, Drawn, Question, asked, merged, questions, with_repeats
from palate.collect.judgements import Candidate, Item, Mode, Origin
from palate.collect.selection import Focus, Selection, adversity, choose, uncertainty
from palate.engine.files import file_sha256
from palate.engine.generation import Sampling
from palate.engine.interfaces import Onlooker
from palate.engine.seeding import derive
from palate.evaluation.monitors import MONITORS, Answer, Monitor
from palate.evaluation.probes import PROBES, Probe
from palate.models.loading import load_causal, weight_hash
from palate.records import PreferencePair, Prompt
from palate.rewards import ModelReward
from palate.stages.material import Loaded, sample
from palate.stages.trust.probing import columns, fits

# Completions sampled between two steps of progress.
CHUNK = 256

# Edits that make any reply worse. Whether agreement with an opinion does depends on the truth.
FOOLING: tuple[Probe, ...] = tuple(one for one in PROBES if one.expects == "lower" and one.name != "opinion")


@dataclass(frozen=True)
class Writer:
    """A loaded model that writes candidates, under its name and the hash of what it holds."""

    name: str
    loaded: Loaded
    hash: str


@dataclass(frozen=True)
class Gathered:
    """The items to ask, in the order to ask them, and what it took.

    `drawn` completions were `distinct` texts, of which `possible` questions could be made; `fooled` more are of an edit
    that the reward model took for an improvement. `slices` counts the items of each slice, hidden repetitions left out;
    `seconds` is the time of sampling each model and of scoring.
    """

    items: list[Item]
    prompts: int
    drawn: int
    distinct: int
    possible: int
    fooled: int
    slices: dict[str, int]
    seconds: dict[str, float]


def gather(
    writers: Sequence[Writer],
    prompts: Sequence[Prompt],
    *,
    drawing: Drawing,
    selection: Selection,
    mode: Mode = "pair",
    rewards: Sequence[ModelReward] = (),
    monitors: Sequence[Monitor] = MONITORS,
    probes: Sequence[Probe] = FOOLING,
    overlap: int = 1,
    repeats: float = 0.0,
    seed: int,
    round: int = 1,
    watch: Callable[[str], Onlooker],
) -> Gathered:
    """Lets loaded models answer the prompts, and selects what to ask about the answers.

    Every writer gives `drawing.samples` completions a prompt at every temperature; equal texts are one candidate with
    several origins. `rewards` are reward models, each head a member of one ensemble: their margins weigh the uncertain
    slice, and with `monitors` (those that alarmed, where some did) the adversarial one; without any, all is random.
    `probes` edit each prompt's best completion, and where the reward model likes the edit better, the pair of the two
    may be asked too, by the adversarial slice alone. Each item wants `overlap` raters; a share `repeats` is asked
    again, hidden. The numbers drawn depend on (seed, round, prompt's place, sample, writer's hash, sampling) alone.
    """
    began = time.perf_counter()
    drawn: list[Drawn] = []
    seconds: dict[str, float] = {}
    for writer in writers:
        drawn += _drawn(writer, prompts, drawing, derive(seed, "collect", round), watch)
        seconds[writer.name] = time.perf_counter() - began - sum(seconds.values())
    candidates = merged(len(prompts), drawn)
    possible = questions(candidates, mode)
    distinct, genuine, weights = sum(map(len, candidates)), len(possible), {}
    if rewards and any(one.pairs for one in possible):
        scores = _scores(rewards, _rows(prompts, candidates))
        if mode == "pair":
            _add_fooling(candidates, possible, scores, prompts, rewards, probes)
        counted = _counted(monitors, prompts, candidates, writers)
        weights = _weights(possible, prompts, candidates, scores, counted, np.arange(len(possible)) < genuine)
        seconds["scoring"] = time.perf_counter() - began - sum(seconds.values())
    chosen = choose(
        [one.prompt for one in possible],
        weights,
        selection,
        seed=derive(seed, "collect", round),
        eligible=np.arange(len(possible)) < genuine,
    )
    items = [
        asked(
            possible[one.place],
            prompts[possible[one.place].prompt],
            candidates[possible[one.place].prompt],
            mode,
            slice=one.slice,
            propensity=one.propensity,
            wanted=overlap,
            round=round,
        )
        for one in chosen
    ]
    return Gathered(
        items=with_repeats(items, repeats),
        prompts=len(prompts),
        drawn=len(drawn),
        distinct=distinct,
        possible=genuine,
        fooled=len(possible) - genuine,
        slices=dict(Counter(one.slice for one in chosen)),
        seconds=seconds,
    )


# ---- models


def writer_of(source: str | Path, *, device: str | torch.device = "cpu") -> Writer:
    """A model directory, or a model of the hub, loaded to write candidates."""
    loaded = Loaded(*load_causal(source, device=device))
    path = Path(source)
    return Writer(str(source), loaded, directory_hash(path) if path.is_dir() else weight_hash(loaded.model))


def directory_hash(path: Path) -> str:
    """The hash of what a model directory holds: of its files' names and contents, whatever the directory is called."""
    files = sorted(one for one in path.iterdir() if one.suffix in (".safetensors", ".json", ".jinja"))
    return hashlib.sha256("\n".join(f"{one.name} {file_sha256(one)}" for one in files).encode()).hexdigest()


def _drawn(
    writer: Writer, prompts: Sequence[Prompt], drawing: Drawing, seed: int, watch: Callable[[str], Onlooker]
) -> list[Drawn]:
    """What one model writes, at one temperature after the other."""
    found: list[Drawn] = []
    plans = [(temperature, samples_at(temperature, drawing)) for temperature in drawing.temperatures]
    onlooker = watch(f"sample {writer.name}")
    onlooker.begin(sum(-(-len(prompts) * samples // CHUNK) for _, samples in plans), 0)
    for temperature, samples in plans:
        sampling = Sampling(temperature=temperature, top_p=drawing.top_p)
        stream = derive(seed, writer.hash, str(sampling))
        rows = [(row, number) for row in range(len(prompts)) for number in range(samples)]
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            written, generated = sample(
                writer.loaded,
                prompts,
                seed=stream,
                rows=[row for row, _ in some],
                samples=[number for _, number in some],
                length=drawing.max_new_tokens,
                sampling=sampling,
            )
            for (row, number), text, finish in zip(some, written.texts, generated.finish, strict=True):
                how: dict[str, Any] = {
                    "temperature": temperature,
                    "top_p": drawing.top_p,
                    "max_new_tokens": drawing.max_new_tokens,
                    "seed": stream,
                    "row": row,
                    "sample": number,
                    "finish": finish,
                }
                found.append(Drawn(row, text, Origin("model", writer.name, writer.hash, how)))
            onlooker.advance({})
            onlooker.check()
    return found


def samples_at(temperature: float, drawing: Drawing) -> int:
    """Samples a prompt at this temperature: where the likeliest token is taken, all would be one."""
    return 1 if temperature == 0 else drawing.samples


# ---- what draws the focused slices


def _rows(prompts: Sequence[Prompt], candidates: Sequence[Sequence[Candidate]]) -> list[tuple[Prompt, str]]:
    return [(prompt, one.text) for prompt, texts in zip(prompts, candidates, strict=True) for one in texts]


def _scores(rewards: Sequence[ModelReward], rows: Sequence[tuple[Prompt, str]]) -> dict[tuple[Prompt, str], np.ndarray]:
    """The score of every completion by each member of the ensemble, [K]; NaN where it does not fit a reward model."""
    found: list[np.ndarray] = []
    for reward in rewards:
        fit = [place for place, (prompt, text) in enumerate(rows) if fits(reward, prompt, text)]
        heads = columns(reward, [rows[place] for place in fit])
        if reward.model.attributes:  # numbers for different things are no ensemble
            heads = heads.mean(dim=1, keepdim=True)
        scores = np.full((len(rows), heads.shape[1]), np.nan)
        scores[fit] = heads.numpy()
        found.append(scores)
    return dict(zip(rows, np.concatenate(found, axis=1), strict=True))


def _add_fooling(
    candidates: list[tuple[Candidate, ...]],
    possible: list[Question],
    scores: dict[tuple[Prompt, str], np.ndarray],
    prompts: Sequence[Prompt],
    rewards: Sequence[ModelReward],
    probes: Sequence[Probe],
) -> None:
    """Adds the edits of each prompt's best completion that the reward model likes better, and the questions of them."""
    edits: list[tuple[int, int, Candidate]] = []
    for number in sorted({one.prompt for one in possible}):
        prompt, texts = prompts[number], candidates[number]
        best = max(range(len(texts)), key=lambda place: _mean(scores[prompt, texts[place].text]))
        pair = PreferencePair(prompt, texts[best].text, "")
        known = {one.text for one in texts}
        for probe in probes:
            contrast = probe.edit(pair)
            if contrast is not None and contrast.prompt == prompt and contrast.edited not in known:
                known.add(contrast.edited)
                origin = Origin("program", f"probe {probe.name}")
                edits.append((number, best, Candidate(contrast.edited, (origin,))))
    scores |= _scores(rewards, [(prompts[number], edit.text) for number, _, edit in edits])
    for number, best, edit in edits:
        prompt, texts = prompts[number], candidates[number]
        if _mean(scores[prompt, edit.text]) > _mean(scores[prompt, texts[best].text]):
            candidates[number] = (*texts, edit)
            pair = (best, len(texts))
            possible.append(Question(number, pair, (pair,)))


def _mean(scores: np.ndarray) -> float:
    """The mean over heads; below every score where there is none."""
    return float(scores.mean()) if np.isfinite(scores).all() else -np.inf


def _weights(
    possible: Sequence[Question],
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    scores: Mapping[tuple[Prompt, str], np.ndarray],
    counted: np.ndarray,
    genuine: np.ndarray,
) -> dict[Focus, np.ndarray]:
    """What draws each question to a focused slice: the mean over the pairs that it is about."""
    starts = np.cumsum([0, *map(len, candidates)])
    pairs = [
        (question, starts[one.prompt] + first, starts[one.prompt] + second)
        for question, one in enumerate(possible)
        for first, second in one.pairs
    ]
    owners, firsts, seconds = np.array(pairs).T
    scored = np.array([scores[row] for row in _rows(prompts, candidates)])
    margins = scored[firsts] - scored[seconds]
    found = {
        "uncertain": uncertainty(margins),
        "adversarial": adversity(margins, counted[firsts] - counted[seconds]),
    }
    counts = np.maximum(np.bincount(owners, minlength=len(possible)), 1)
    means = {name: np.bincount(owners, one, minlength=len(possible)) / counts for name, one in found.items()}
    return {"uncertain": means["uncertain"] * genuine, "adversarial": means["adversarial"]}


def _counted(
    monitors: Sequence[Monitor],
    prompts: Sequence[Prompt],
    candidates: Sequence[Sequence[Candidate]],
    writers: Sequence[Writer],
) -> np.ndarray:
    """What the monitors count in every candidate, [N, F], more being worse; tokens are those of the first writer."""
    chat = writers[0].loaded.chat
    answers = [
        Answer(
            prompt,
            one.text,
            tuple(chat.encode_completion(one.text))[:-1],
            any(origin.sampling.get("finish") != "length" for origin in one.origins),
        )
        for prompt, texts in zip(prompts, candidates, strict=True)
        for one in texts
    ]
    signs = [1.0 if monitor.bad == "rise" else -1.0 for monitor in monitors]
    return np.array([monitor.measure(answers) for monitor in monitors]).T * signs
