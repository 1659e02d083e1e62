"""Every command of `palate`. Nothing heavy is imported before a command needs it: help must come at once."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from palate.recipe import Recipe

Outcome = TypeVar("Outcome")

INTERRUPTED = 130

# What a system says no to, which is no mistake of the program's: rights, quotas, full or read-only disks.
REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="palate",
    help="From demonstrations and preferences to an aligned language model, each stage with its proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data = typer.Typer(help="Look at data files.", no_args_is_help=True)
world = typer.Typer(help="The embedded world.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(world, name="testbed")

RecipeFile = Annotated[Path, typer.Argument(help="A recipe in TOML.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Overrides a setting; may be repeated.")
]
Root = Annotated[Path, typer.Option("--runs", help="Where run directories stand.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Moves an existing run of this name aside and begins anew.")]
Force = Annotated[
    bool, typer.Option("--force", help="Goes on past a stage whose verdict is stop; the report will say so.")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Prints plan, memory and time, and does nothing.")]


@app.command()
def demo(
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Align the embedded model on the embedded world, in minutes, offline."""
    from palate.recipe import demo_recipe

    _execute(demo_recipe(settings or ()), runs, fresh, force, dry_run)


@app.command()
def run(
    recipe: RecipeFile,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="As many rounds in all: sample, ask, learn anew, align anew; as [rounds].")
    ] = None,
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Do every stage of a recipe that is not done yet, round after round where it says so."""
    numbered = [] if rounds is None else [f"rounds.number={rounds}"]
    _execute(_recipe(recipe, [*(settings or ()), *numbered]), runs, fresh, force, dry_run)


@app.command()
def sft(
    recipe: RecipeFile,
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Do the supervised fine-tuning of a recipe alone."""
    _execute(_recipe(recipe, settings), runs, fresh, force, dry_run, "sft")


@app.command()
def reward(
    recipe: RecipeFile,
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Train the reward model of a recipe alone."""
    _execute(_recipe(recipe, settings), runs, fresh, force, dry_run, "reward")


@app.command()
def align(
    recipe: RecipeFile,
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Do the alignment of a recipe alone."""
    _execute(_recipe(recipe, settings), runs, fresh, force, dry_run, "align")


@app.command()
def evaluate(
    recipe: RecipeFile,
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Do the evaluation of a recipe alone."""
    _execute(_recipe(recipe, settings), runs, fresh, force, dry_run, "evaluate")


@app.command()
def compare(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in TOML; the demo's unless given.")] = None,
    methods: Annotated[str, typer.Option(help="Algorithms by name, with commas between.")] = "ppo,rloo,grpo,dpo",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    equal: Annotated[
        str,
        typer.Option(help="samples: as many completions as the recipe's own alignment; time: as long as the first."),
    ] = "samples",
    completions: Annotated[
        int | None,
        typer.Option(min=1, help="As many completions, sampled or read, in place of the recipe's own alignment's."),
    ] = None,
    settings: Settings = None,
    runs: Root = Path("runs"),
) -> None:
    """Compare methods from one SFT model: score against KL, win rate, cost."""
    if equal not in ("samples", "time"):
        raise typer.BadParameter(f"--equal is samples or time; {equal!r} was given.")
    chosen = _seeds(seeds)
    from palate.recipe import demo_recipe
    from palate.stages.compare import compare as contest

    whole = demo_recipe(settings or ()) if recipe is None else _recipe(recipe, settings)
    page = _heard(
        lambda **watched: contest(
            whole,
            methods=[method.strip() for method in methods.split(",")],
            seeds=chosen,
            equal="time" if equal == "time" else "samples",
            completions=completions,
            root=runs,
            **watched,
        )
    )
    print(f"Written: {page} and {page.with_suffix('.json')}")
    print(f"Next: open {page}")


@app.command()
def lab(
    name: Annotated[str | None, typer.Argument(help="An experiment; all are listed unless given.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0",
    bias: Annotated[
        str | None,
        typer.Option(help="What annotators of `hacking` like besides gold: length (unless given), format, sycophancy."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Goes through every part in seconds; the numbers mean nothing.")
    ] = False,
    runs: Root = Path("runs"),
) -> None:
    """Do an experiment on the embedded world, and write its page."""
    from palate.stages.lab import EXPERIMENTS, conduct, experiment_of

    if name is None:
        for known in EXPERIMENTS:
            print(f"{known:<18} {experiment_of(known).question}")
        print("\nNext: palate lab NAME")
        return
    experiment, chosen = experiment_of(name, bias), _seeds(seeds)
    options = f"{f' --bias {bias}' if bias else ''} --seeds {','.join(map(str, chosen))}{' --quick' if quick else ''}"
    page = _heard(
        lambda **watched: conduct(
            experiment, seeds=chosen, quick=quick, command=f"palate lab {name}{options}", root=runs, **watched
        )
    )
    print(f"Written: {page} and {page.with_suffix('.json')}")
    print(f"Next: open {page}")


def _seeds(text: str) -> list[int]:
    """Whole numbers with commas between."""
    if not all(seed.strip().isascii() and seed.strip().isdecimal() for seed in text.split(",")):
        raise typer.BadParameter(f"--seeds takes whole numbers with commas between, such as 0,1,2; {text!r} was given.")
    return [int(seed) for seed in text.split(",")]


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]) -> None:
    """Write a run's report anew."""
    from palate.report import write

    print(write(run))


@app.command()
def doctor(
    run: Annotated[Path, typer.Argument(help="A run directory, finished, stopped or failed.", show_default=False)],
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object a diagnosis, the likeliest first, in place of words.")
    ] = False,
) -> None:
    """Say which stage of a run is the likeliest cause of what went wrong, on what evidence, and what to change."""
    from dataclasses import asdict

    from palate.engine.files import encode_json
    from palate.stages.doctor import examine, told

    diagnoses = examine(run)
    for line in map(encode_json, map(asdict, diagnoses)) if json_lines else told(run, diagnoses):
        print(line)


@app.command()
def verify() -> None:
    """Check on this machine what must be true exactly, in under two minutes."""
    from palate.stages.verify import findings

    failed = 0
    for finding in findings():
        failed += not finding.holds
        mark = "ok  " if finding.holds else "FAIL"
        print(
            f"{mark} {finding.name}\n       expected {finding.expected}\n       observed {finding.observed}",
            flush=True,
        )
    print(f"\n{failed} properties failed." if failed else "\nEverything holds.")
    sys.exit(1 if failed else 0)


@app.command()
def label(
    source: Annotated[Path | None, typer.Argument(help="A data file, or a store of feedback.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Two files of {prompt, completion}, compared blindly."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="pair, ranking, rating, thumbs, demonstration or edit; what suits the file unless given."),
    ] = None,
    overlap: Annotated[int | None, typer.Option(min=1, help="How many people are to judge an item; 1.")] = None,
    annotators: Annotated[str, typer.Option(help="Pseudonyms, with commas between; each gets a link.")] = "",
    guidelines: Annotated[Path | None, typer.Option(help="A Markdown file that the page shows.")] = None,
    tags: Annotated[str, typer.Option(help="Reasons to choose from, with commas between.")] = "",
    gold: Annotated[Path | None, typer.Option(help="Pairs with a known answer, mixed in unseen.")] = None,
    repeat_share: Annotated[float, typer.Option(min=0, max=1, help="Share of items asked twice, unseen.")] = 0.05,
    log: Annotated[bool, typer.Option("--log", help="Takes feedback on a deployed model at /api/log.")] = False,
    host: Annotated[str, typer.Option(help="The address to serve on; any but loopback asks for tokens.")] = "127.0.0.1",
    port: Annotated[str, typer.Option(help="A port, or auto for any free one.")] = "8765",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name under which raters reach this machine; may be repeated.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Opens no browser.")] = False,
) -> None:
    """Ask people in the browser which answer is better, or what they would answer."""
    given = source or compare
    if given is None or (source and compare):
        raise typer.BadParameter("Give a data file or a store, or --compare A B: one of the two.")
    if compare and (mode or gold):
        raise typer.BadParameter("--compare asks pairs alone: leave out --mode and --gold.")
    if port != "auto" and not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise typer.BadParameter(f"--port is a number below 65536, or auto; {port!r} was given.")
    from palate.collect.judgements import mode_of
    from palate.stages import labelling

    serving = labelling.Serving(
        host=host,
        port=0 if port == "auto" else int(port),
        allowed=tuple(allow_host or ()),
        annotators=_words(annotators),
        guidelines=guidelines,
        tags=_words(tags) or labelling.TAGS,
        repeat_share=repeat_share,
        log=log,
        browser=not no_open,
    )
    labelling.label(given, serving, mode=None if mode is None else mode_of(mode), overlap=overlap, gold=gold, say=_say)


def _words(text: str) -> tuple[str, ...]:
    """Words with commas between."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _writable(out: Path | None) -> Path | None:
    """Asked before the work is done: where its result is to go must be there."""
    if out is not None and not out.parent.is_dir():
        raise typer.BadParameter(f"There is no directory {out.parent} for {out.name}. Make it, or name another file.")
    return out


Length = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest completion, EOS included.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes every random number.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="A file to write to instead of the screen.", callback=_writable)
]


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A model directory or hub name.", show_default=False)],
    prompts: Annotated[Path, typer.Option(help="A file of prompts.", show_default=False)],
    max_new_tokens: Length = 64,
    temperature: Temperature = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Only the likeliest tokens of this mass.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Completions a prompt.")] = 1,
    best_of: Annotated[
        int | None, typer.Option(min=2, help="Writes the best of so many completions a prompt, by --reward.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="The reward-model directory that --best-of goes by.")] = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Write completions as JSON lines, with token ids and log-probabilities."""
    if (best_of is None) != (reward is None):
        raise typer.BadParameter("--best-of N and --reward DIR go together: one says how many, the other by whom.")
    if best_of is not None and (samples > 1 or temperature == 0):
        raise typer.BadParameter(
            "--best-of writes one of several different completions a prompt. Leave out --samples, and give a "
            "temperature above 0."
        )
    from palate.engine.generation import Sampling
    from palate.stages import tools

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if best_of is not None and reward is not None:
        rows = tools.best_of_n(
            model, prompts, reward=reward, n=best_of, sampling=sampling, length=max_new_tokens, seed=seed
        )
    else:
        rows = tools.generate(model, prompts, sampling=sampling, length=max_new_tokens, samples=samples, seed=seed)
    _write(tools.json_lines(rows), out)


@app.command()
def logprobs(
    model: Annotated[str, typer.Argument(help="A model directory or hub name.", show_default=False)],
    file: Annotated[Path, typer.Option("--input", help="A file of {prompt, completion}.", show_default=False)],
    out: Out = None,
) -> None:
    """Write the log-probability of every completion token as JSON lines."""
    from palate.stages import tools

    _write(tools.json_lines(tools.logprobs(model, file)), out)


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="A reward-model directory.", show_default=False)],
    file: Annotated[Path, typer.Option("--input", help="A file of completions or pairs.", show_default=False)],
    out: Out = None,
) -> None:
    """Write a reward model's scores as JSON lines."""
    from palate.stages import tools

    _write(tools.json_lines(tools.score(model, file)), out)


@app.command()
def winrate(
    before: Annotated[str, typer.Argument(help="A model directory or hub name.", show_default=False)],
    after: Annotated[str, typer.Argument(help="Another.", show_default=False)],
    judge: Annotated[str, typer.Option(help="A reward-model directory, or gold.", show_default=False)],
    prompts: Annotated[str, typer.Option(help="A file of prompts, or testbed.", show_default=False)],
    samples: Annotated[int, typer.Option(min=1, help="Answers a prompt.")] = 1,
    max_new_tokens: Length = 64,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
) -> None:
    """Say how often a judge prefers the second model's answers, also at equal length, with intervals."""
    from palate.engine.generation import Sampling
    from palate.stages import tools

    result = tools.winrate(
        before,
        after,
        judge=judge,
        prompts=prompts,
        samples=samples,
        sampling=Sampling(temperature=temperature),
        length=max_new_tokens,
        seed=seed,
    )
    print(next(tools.json_lines(iter([result]))))


@app.command()
def probe(
    model: Annotated[str, typer.Argument(help="A reward-model directory.", show_default=False)],
    file: Annotated[
        Path | None, typer.Option("--input", help="Pairs, or demonstrations; the testbed's pairs unless given.")
    ] = None,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="Another reward model, to see how far they agree; may be repeated.")
    ] = None,
    on_bad: Annotated[str, typer.Option(help="What a bad row does: stop, or skip.")] = "stop",
    out: Annotated[Path | None, typer.Option(help="A file for the whole report as JSON.", callback=_writable)] = None,
) -> None:
    """Say what a reward model is worth: accuracy, calibration, habits, and edits that fool it."""
    if on_bad not in ("stop", "skip"):
        raise typer.BadParameter(f"--on-bad is stop or skip; {on_bad!r} was given.")
    from rich.console import Console

    from palate.stages import probing

    report, said = probing.probe(model, file, ensemble=ensemble or (), on_bad="skip" if on_bad == "skip" else "stop")
    console = Console(soft_wrap=True)
    for sentence in said:
        console.print(sentence, highlight=False, markup=False)
    console.print(probing.render(report))
    if out is not None:
        probing.write(report, out)
        print(f"Written: {out}")


@app.command()
def collect(
    prompts: Annotated[str, typer.Option(help="A file of prompts, or testbed.", show_default=False)],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Model directories or hub names.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The store of feedback to fill.", callback=_writable)] = Path(
        "feedback.sqlite"
    ),
    mode: Annotated[str, typer.Option(help="pair, ranking, rating, thumbs, demonstration or edit.")] = "pair",
    count: Annotated[int, typer.Option(min=1, help="Items to ask.")] = 100,
    per_prompt: Annotated[int, typer.Option(min=1, help="Most items about one prompt.")] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Completions a prompt, of each model and temperature.")] = 4,
    temperature: Annotated[
        list[float] | None, typer.Option(min=0, help="1 unless given; may be repeated.", show_default=False)
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Only the likeliest tokens of this mass.")] = None,
    max_new_tokens: Length = 64,
    reward_model: Annotated[
        list[str] | None, typer.Option(help="What the focused slices go by; several are an ensemble.")
    ] = None,
    random: Annotated[float, typer.Option(min=0, help="Share drawn uniformly: an unbiased test set.")] = 0.3,
    uncertain: Annotated[
        float, typer.Option(min=0, help="Share where the margin is near zero, or the ensemble disagrees.")
    ] = 0.4,
    adversarial: Annotated[
        float, typer.Option(min=0, help="Share where the reward model prefers what monitors count.")
    ] = 0.3,
    overlap: Annotated[int, typer.Option(min=1, help="Raters wanted for each item.")] = 1,
    repeat_share: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the items that come again, hidden.")
    ] = 0.0,
    round: Annotated[int, typer.Option(min=1, help="The round of feedback; another adds new items.")] = 1,
    seed: Seed = 0,
    dry_run: Dry = False,
) -> None:
    """Let models answer prompts, and choose what to ask about their answers."""
    from rich.console import Console

    from palate.cli.progress import Interruption, Watcher
    from palate.collect.candidates import Drawing
    from palate.collect.judgements import mode_of
    from palate.collect.selection import Selection
    from palate.settings import build
    from palate.stages import asking

    drawing = {"samples": samples, "temperatures": temperature or [1.0], "max_new_tokens": max_new_tokens}
    shares = {"random": random, "uncertain": uncertain, "adversarial": adversarial}
    what = {
        "drawing": build(Drawing, drawing | ({} if top_p is None else {"top_p": top_p}), "collect"),
        "selection": build(Selection, {"count": count, "per_prompt": per_prompt, **shares}, "collect"),
        "mode": mode_of(mode),
        "rewards": reward_model or [],
        "seed": seed,
    }
    if dry_run:
        print("\n".join(asking.plan(models or [], prompts, **what)))
        return
    console, interruption = Console(soft_wrap=True), Interruption()
    found, new = asking.collect(
        models or [],
        prompts,
        out,
        **what,
        overlap=overlap,
        repeats=repeat_share,
        round=round,
        watch=lambda phase: Watcher(phase, console, interruption),
    )
    print("\n".join(asking.told(found, new, what["selection"])))
    print(f"Written: {out}\nNext: palate label {out}")


Url = Annotated[str, typer.Option(help="An OpenAI-compatible endpoint: http://HOST:PORT/v1.", show_default=False)]
Name = Annotated[str, typer.Option(help="The model's name there.", show_default=False)]
Principles = Annotated[str | None, typer.Option(help="A file of principles, or default: Palate's own.")]
Key = Annotated[str, typer.Option(help="The environment variable that holds the key; it is not shown or kept.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one try; there are six.")]
Together = Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests at a time.")]
Price = Annotated[float | None, typer.Option(min=0, help="Per million tokens, to show the cost.")]
ReplyLength = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest reply, its reasoning included.")]
Most = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many in this go.")]
ForceJudge = Annotated[bool, typer.Option("--force", help="Counts a judge that failed on controls.")]


@app.command()
def judge(
    endpoint: Url,
    model: Name,
    source: Annotated[Path | None, typer.Argument(help="A store of feedback, or a data file.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Two files of {prompt, completion}: which model answers better?"),
    ] = None,
    guidelines: Annotated[
        Path | None, typer.Option(help="What the judge is told to go by; the store's own unless given.")
    ] = None,
    constitution: Principles = None,
    every: Annotated[
        bool, typer.Option("--every", help="Also pairs that people have judged, to see how far they agree.")
    ] = False,
    limit: Most = None,
    key_variable: Key = "OPENAI_API_KEY",
    concurrency: Together = 8,
    timeout: Timeout = 120.0,
    max_tokens: ReplyLength = 1024,
    price_in: Price = None,
    price_out: Price = None,
    seed: Seed = 0,
    force: ForceJudge = False,
) -> None:
    """Let an AI judge answer the pairs that wait: in both orders, tried for obedience, beside people."""
    if (source is None) == (compare is None):
        raise typer.BadParameter("Give a store or a data file, or --compare A B: one of the two.")
    from palate.collect.endpoint import Endpoint
    from palate.stages import judging, labelling

    asked = Endpoint(endpoint, model, key_variable, timeout, price_in=price_in, price_out=price_out, seed=seed)
    how = judging.Judging(
        guidelines=guidelines,
        constitution=judging.constitution_of(constitution),
        every=every,
        most=limit,
        concurrency=concurrency,
        max_tokens=max_tokens,
        seed=seed,
        force=force,
    )
    if compare is not None:
        store = labelling.prepare_comparison(compare, None, _say)
    else:
        assert source is not None
        store = labelling.prepare(source, None, None, None, False)
    judged = _heard(lambda **watched: judging.judge(store, asked, how, **watched))
    print("\n".join(judging.lines(judged)))
    print(f"Written: {store}\nNext: palate quality {store}")


@app.command()
def constitution(
    prompts: Annotated[Path, typer.Argument(help="Prompts, or prompts with answers.", show_default=False)],
    endpoint: Url,
    model: Name,
    out: Annotated[
        Path, typer.Option("--out", help="A directory for demonstrations and feedback.", show_default=False)
    ],
    constitution: Principles = "default",
    rounds: Annotated[int, typer.Option(min=1, help="Critiques and revisions an answer.")] = 1,
    limit: Most = None,
    key_variable: Key = "OPENAI_API_KEY",
    concurrency: Together = 8,
    timeout: Timeout = 120.0,
    max_tokens: ReplyLength = 1024,
    price_in: Price = None,
    price_out: Price = None,
    seed: Seed = 0,
    force: ForceJudge = False,
) -> None:
    """Let a model criticise and revise answers by written principles: demonstrations, and preferences by principle."""
    from palate.collect.endpoint import Endpoint
    from palate.stages import judging

    asked = Endpoint(endpoint, model, key_variable, timeout, price_in=price_in, price_out=price_out, seed=seed)
    how = judging.Judging(
        constitution=judging.constitution_of(constitution),
        most=limit,
        concurrency=concurrency,
        max_tokens=max_tokens,
        seed=seed,
        force=force,
    )
    made = _heard(lambda **watched: judging.constitute(prompts, asked, out, how, rounds=rounds, **watched))
    print("\n".join(judging.made(made)))
    print(f"Written: {out / 'demonstrations.jsonl'} and {out / 'feedback.sqlite'}")
    print(f"Next: palate label {out / 'feedback.sqlite'}")


@app.command("import")
def import_feedback(
    store: Annotated[Path, typer.Argument(help="A store of feedback; made where there is none.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(help="Data files, logs of a deployed model, or the events of a store.", show_default=False),
    ],
    rater: Annotated[
        str | None, typer.Option(help="Who judged; the file's name unless given, or a log's own users.")
    ] = None,
    kind: Annotated[str, typer.Option(help="What judged: human, judge or program.")] = "human",
    on_bad: Annotated[str, typer.Option(help="What a bad row does: stop, or skip.")] = "stop",
) -> None:
    """Put what files say into a store of feedback; a file twice is stored once."""
    from palate.stages import feedback

    for sentence in feedback.take_in(store, files, rater=rater, kind=kind, on_bad=on_bad):
        print(sentence)
    print(f"Written: {store}\nNext: palate quality {store}, or palate export {store} --as trl --out preferences.jsonl")


@app.command("export")
def export_feedback(
    store: Annotated[Path, typer.Argument(help="A store of feedback.", show_default=False)],
    form: Annotated[
        str,
        typer.Option(
            "--as", help="trl, hh, kto, rankings, ratings, demonstrations, csv, or all events.", show_default=False
        ),
    ],
    margin: Annotated[
        bool, typer.Option("--margin", help="Pairs carry how much better they are, 1 to 3, and reward models learn it.")
    ] = False,
    out: Out = None,
) -> None:
    """Write feedback as a file to train on, as a table, or as the store's events."""
    from palate.stages import feedback

    exported = feedback.give_out(store, form, margin=margin)
    print(feedback.told(exported, form), file=sys.stderr)
    _write(iter(exported.lines), out)


@app.command()
def quality(
    source: Annotated[
        Path, typer.Argument(help="A store of feedback, or a file that several raters judged.", show_default=False)
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(help="Is it enough? Trains its reward model on 1/8, 1/4, 1/2 and all of the labels."),
    ] = None,
    settings: Settings = None,
    json_text: Annotated[bool, typer.Option("--json", help="One JSON object in place of words.")] = False,
    on_bad: Annotated[str, typer.Option(help="What a bad row does: stop, or skip.")] = "stop",
    runs: Root = Path("runs"),
    force: Force = False,
) -> None:
    """Say how far feedback can be trusted: agreement, raters, ceiling, disputes; with a recipe, if it is enough."""
    if on_bad not in ("stop", "skip"):
        raise typer.BadParameter(f"--on-bad is stop or skip; {on_bad!r} was given.")
    from contextlib import redirect_stdout
    from dataclasses import replace

    from rich.console import Console

    from palate.engine.files import encode_json
    from palate.stages import quality as stage

    feedback = stage.read_source(source, on_bad)
    found = stage.examine(feedback)
    if recipe is not None:
        whole = _recipe(recipe, settings)
        with redirect_stdout(sys.stderr if json_text else sys.stdout):  # progress is no part of the JSON
            curve = _heard(lambda **watched: stage.enough(feedback, whole, root=runs, force=force, **watched))
        found = replace(found, curve=curve)
    if json_text:
        print(encode_json(stage.as_json(found)))
        return
    Console(soft_wrap=True).print(stage.render(found), markup=False, highlight=False)


@app.command()
def design(
    behaviour: Annotated[
        str | None, typer.Argument(help="A name, or a sentence in quotes; the names are listed unless given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; design-NAME unless given.")] = None,
    base: Annotated[str, typer.Option(help="The model that is to learn: a directory or hub name.")] = "models/base",
    annotators: Annotated[int, typer.Option(min=2, help="How many people will judge.")] = 4,
    pace: Annotated[
        float | None, typer.Option(min=1, help="Seconds a vote, as measured; a guess unless given.")
    ] = None,
    pay: Annotated[float | None, typer.Option(min=0, help="What an hour of an annotator costs.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint whose model drafts more.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
    key_variable: Key = "OPENAI_API_KEY",
) -> None:
    """Write what a labelling team needs for a behaviour: protocol, guidelines, prompts, gold, sizes and recipe."""
    from palate.stages import designing

    if behaviour is None:
        print("\n".join(designing.listing()))
        return
    if (endpoint is None) != (model is None):
        raise typer.BadParameter("--endpoint URL and --model NAME go together: where a model answers, and which.")
    asked = None
    if endpoint is not None and model is not None:
        from palate.collect.endpoint import Endpoint

        asked = Endpoint(endpoint, model, key_variable)
    designing.design(behaviour, out, base=base, people=annotators, pace=pace, pay=pay, endpoint=asked, say=_say)


@world.command()
def pretrain(
    out: Annotated[Path, typer.Argument(help="The directory to make.", show_default=False)],
) -> None:
    """Remake the embedded base model from its generated corpus."""
    from rich.console import Console

    from palate.cli.progress import Interruption, Watcher
    from palate.testbed import pretrain as remake

    console = Console(soft_wrap=True)
    card = remake(out, Watcher("pretrain", console, Interruption()))
    console.print(f"{out}: {card['accuracy']}", highlight=False)


def _write(lines: Iterator[str], out: Path | None) -> None:
    """To the screen line by line, or to a file whole or not at all."""
    if out is None:
        for line in lines:
            print(line)
        return
    from palate.engine.files import write_atomic

    write_atomic(out, "".join(f"{line}\n" for line in lines))
    print(out)


@data.command("inspect")
def inspect_data(
    file: Annotated[Path, typer.Argument(help="A data file.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Show the tokens of this model's tokenizer.")] = None,
) -> None:
    """Show how a data file is read, three examples, counts and warnings."""
    from rich.console import Console

    from palate.data.inspect import inspect_file, render

    encode, context = None, None
    if model is not None:
        from palate.models import load_causal

        language_model, encode, _ = load_causal(model)
        context = language_model.context
    Console().print(render(inspect_file(file, encode=encode, context=context)))


def _recipe(path: Path, settings: list[str] | None) -> Recipe:
    from palate.recipe import load_recipe

    return load_recipe(path, settings or ())


def _execute(recipe: Recipe, runs: Path, fresh: bool, force: bool, dry_run: bool, only: str | None = None) -> None:
    from rich.console import Console

    from palate.stages.closing import closing_words
    from palate.stages.estimate import estimate
    from palate.stages.rounds import execute

    console = Console(soft_wrap=True)
    if dry_run:
        console.print(estimate(recipe, only))
        return
    place = _heard(
        lambda **watched: execute(recipe, root=runs, command=sys.argv, fresh=fresh, force=force, only=only, **watched)
    )
    console.print(closing_words(place))


def _heard(work: Callable[..., Outcome]) -> Outcome:
    """Does the work with someone to watch it, who hears Ctrl-C."""
    from rich.console import Console

    from palate.cli.progress import Interruption, Watcher

    console, interruption = Console(soft_wrap=True), Interruption()
    try:
        with interruption.listening():
            return work(
                watch=lambda phase: Watcher(phase, console, interruption),
                say=lambda sentence: console.print(sentence, highlight=False, markup=False),
            )
    except KeyboardInterrupt:
        print("\npalate: stopped. The same command goes on from here.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def main() -> None:
    """Runs the command and turns Palate's errors into one paragraph and an exit code."""
    from palate.errors import PalateError

    try:
        app(standalone_mode=True)
    except PalateError as error:
        print(f"\npalate: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        print(
            f"\npalate: {error}. The system refused this. Check permissions and free space, and run the same command "
            "again: what was saved before is whole.",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
