"""Every command of `palate`. Nothing heavy is imported before a command needs it: help must come at once."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palate.recipe import Recipe

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
    settings: Settings = None,
    runs: Root = Path("runs"),
    fresh: Fresh = False,
    force: Force = False,
    dry_run: Dry = False,
) -> None:
    """Do every stage of a recipe that is not done yet."""
    _execute(_recipe(recipe, settings), runs, fresh, force, dry_run)


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
    if not all(seed.strip().isdigit() for seed in text.split(",")):
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
    from palate.stages.run import execute

    console = Console(soft_wrap=True)
    if dry_run:
        console.print(estimate(recipe, only))
        return
    place = _heard(
        lambda **watched: execute(recipe, root=runs, command=sys.argv, fresh=fresh, force=force, only=only, **watched)
    )
    console.print(closing_words(place))


def _heard(work: Callable[..., Path]) -> Path:
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
