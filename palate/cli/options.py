"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def writable(out: Path | None) -> Path | None:
    """Asked before the work is done: where its result is to go must be there."""
    if out is not None and not out.parent.is_dir():
        raise typer.BadParameter(f"There is no directory {out.parent} for {out.name}. Make it, or name another file.")
    return out


# ---- runs

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

# ---- sampling, and what is written

Length = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest completion, EOS included.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes every random number.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")]
Out = Annotated[Path | None, typer.Option("--out", help="A file to write to instead of the screen.", callback=writable)]

# ---- endpoints

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
