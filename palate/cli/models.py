"""Commands that put single questions to saved models and to data files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palate.cli.doing import write
from palate.cli.options import (
    Length,
    Out,
    Seed,
    Temperature,
    writable,
)


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
    write(tools.json_lines(rows), out)


def logprobs(
    model: Annotated[str, typer.Argument(help="A model directory or hub name.", show_default=False)],
    file: Annotated[Path, typer.Option("--input", help="A file of {prompt, completion}.", show_default=False)],
    out: Out = None,
) -> None:
    """Write the log-probability of every completion token as JSON lines."""
    from palate.stages import tools

    write(tools.json_lines(tools.logprobs(model, file)), out)


def score(
    model: Annotated[str, typer.Argument(help="A reward-model directory.", show_default=False)],
    file: Annotated[Path, typer.Option("--input", help="A file of completions or pairs.", show_default=False)],
    out: Out = None,
) -> None:
    """Write a reward model's scores as JSON lines."""
    from palate.stages import tools

    write(tools.json_lines(tools.score(model, file)), out)


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


def probe(
    model: Annotated[str, typer.Argument(help="A reward-model directory.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Option("--input", help="Pairs, demonstrations, or opinions; the testbed's pairs unless given."),
    ] = None,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="Another reward model, to see how far they agree; may be repeated.")
    ] = None,
    on_bad: Annotated[str, typer.Option(help="What a bad row does: stop, or skip.")] = "stop",
    out: Annotated[Path | None, typer.Option(help="A file for the whole report as JSON.", callback=writable)] = None,
) -> None:
    """Say what a reward model is worth: accuracy, calibration, habits, and edits that fool it."""
    if on_bad not in ("stop", "skip"):
        raise typer.BadParameter(f"--on-bad is stop or skip; {on_bad!r} was given.")
    from rich.console import Console

    from palate.stages.trust import probing

    report, said = probing.probe(model, file, ensemble=ensemble or (), on_bad="skip" if on_bad == "skip" else "stop")
    console = Console(soft_wrap=True)
    for sentence in said:
        console.print(sentence, highlight=False, markup=False)
    console.print(probing.render(report))
    if out is not None:
        probing.write(report, out)
        print(f"Written: {out}")


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
