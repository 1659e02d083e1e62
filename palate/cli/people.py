"""Commands that ask for feedback, and say what it is worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from palate.cli.doing import heard, recipe_of, say, words_of, write
from palate.cli.options import (
    Dry,
    Force,
    ForceJudge,
    Key,
    Length,
    Most,
    Name,
    Out,
    Price,
    Principles,
    ReplyLength,
    Root,
    Seed,
    Settings,
    Timeout,
    Together,
    Url,
    writable,
)


def collect(
    prompts: Annotated[str, typer.Option(help="A file of prompts, or testbed.", show_default=False)],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Model directories or hub names.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The store of feedback to fill.", callback=writable)] = Path(
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
    from palate.stages.people import asking

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
    from palate.stages.people import labelling

    serving = labelling.Serving(
        host=host,
        port=0 if port == "auto" else int(port),
        allowed=tuple(allow_host or ()),
        annotators=words_of(annotators),
        guidelines=guidelines,
        tags=words_of(tags) or labelling.TAGS,
        repeat_share=repeat_share,
        log=log,
        browser=not no_open,
    )
    labelling.label(given, serving, mode=None if mode is None else mode_of(mode), overlap=overlap, gold=gold, say=say)


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
    from palate.stages.people import judging, labelling

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
        store = labelling.prepare_comparison(compare, None, say)
    else:
        assert source is not None
        store = labelling.prepare(source, None, None, None, False)
    judged = heard(lambda **watched: judging.judge(store, asked, how, **watched))
    print("\n".join(judging.lines(judged)))
    print(f"Written: {store}\nNext: palate quality {store}")


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
    from palate.stages.people import judging

    asked = Endpoint(endpoint, model, key_variable, timeout, price_in=price_in, price_out=price_out, seed=seed)
    how = judging.Judging(
        constitution=judging.constitution_of(constitution),
        most=limit,
        concurrency=concurrency,
        max_tokens=max_tokens,
        seed=seed,
        force=force,
    )
    made = heard(lambda **watched: judging.constitute(prompts, asked, out, how, rounds=rounds, **watched))
    print("\n".join(judging.made(made)))
    print(f"Written: {out / 'demonstrations.jsonl'} and {out / 'feedback.sqlite'}")
    print(f"Next: palate label {out / 'feedback.sqlite'}")


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
    from palate.stages.people import feedback

    for sentence in feedback.take_in(store, files, rater=rater, kind=kind, on_bad=on_bad):
        print(sentence)
    print(f"Written: {store}\nNext: palate quality {store}, or palate export {store} --as trl --out preferences.jsonl")


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
    from palate.stages.people import feedback

    exported = feedback.give_out(store, form, margin=margin)
    print(feedback.told(exported, form), file=sys.stderr)
    write(iter(exported.lines), out)


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
    from palate.stages.people import quality as stage

    feedback = stage.read_source(source, on_bad)
    found = stage.examine(feedback)
    if recipe is not None:
        whole = recipe_of(recipe, settings)
        with redirect_stdout(sys.stderr if json_text else sys.stdout):  # progress is no part of the JSON
            curve = heard(lambda **watched: stage.enough(feedback, whole, root=runs, force=force, **watched))
        found = replace(found, curve=curve)
    if json_text:
        print(encode_json(stage.as_json(found)))
        return
    Console(soft_wrap=True).print(stage.render(found), markup=False, highlight=False)


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
    from palate.stages.people import designing

    if behaviour is None:
        print("\n".join(designing.listing()))
        return
    if (endpoint is None) != (model is None):
        raise typer.BadParameter("--endpoint URL and --model NAME go together: where a model answers, and which.")
    asked = None
    if endpoint is not None and model is not None:
        from palate.collect.endpoint import Endpoint

        asked = Endpoint(endpoint, model, key_variable)
    designing.design(behaviour, out, base=base, people=annotators, pace=pace, pay=pay, endpoint=asked, say=say)
