"""Every command of `palate`. Nothing heavy is imported before a command needs it: help must come at once."""

from __future__ import annotations

import errno
import sys

import typer

from palate.cli import models, people, runs

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

app.command()(runs.demo)
app.command()(runs.run)
for name in runs.STAGES:
    app.command(name)(runs.stage(name))
for command in (
    *(runs.compare, runs.lab, runs.report, runs.doctor, runs.verify),
    *(people.collect, people.label, people.judge, people.constitution, people.quality, people.design),
    *(models.generate, models.logprobs, models.score, models.winrate, models.probe),
):
    app.command()(command)
app.command("import")(people.import_feedback)
app.command("export")(people.export_feedback)
data.command("inspect")(models.inspect_data)
world.command()(models.pretrain)
app.add_typer(data, name="data")
app.add_typer(world, name="testbed")


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
