"""The command ``narrow``: its flags are the settings of `narrowlib.recipe.settings.RecipeConfig`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from narrowlib.recipe.settings import RecipeConfig, meanings, read_config

app = typer.Typer(
    help="Narrow a language model to what your documents need.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130  # exit code of what Ctrl-C stops
ALL = tuple(field.name for field in fields(RecipeConfig))
FOR_SCORES = (
    "keep",
    "model",
    "column",
    "units",
    "method",
    "score_tokens",
    "block_length",
    "held_out_share",
    "seed",
    "device",
)
FOR_LOSSES = ("keep", "lose", "column", "held_out_tokens", "block_length", "held_out_share", "seed", "device")
Out = Annotated[Path | None, typer.Option(help="New or empty folder for the checkpoint and its report.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings, by the names of the flags; flags go first.")]
Folder = Annotated[Path, typer.Argument(help="What narrow run left behind.")]


def with_settings(names: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Flags for these settings, all optional, in place of the function's last parameter, ``settings``."""
    defaults, meaning = {field.name: field.default for field in fields(RecipeConfig)}, meanings()

    def option(name: str) -> inspect.Parameter:
        default = defaults[name]
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        words = meaning[name] + (f" [{shown}]" if isinstance(shown, (int, float, str)) and shown not in ("", 0) else "")
        kind = RecipeConfig.__annotations__[name].removesuffix(" | None").replace("tuple[", "").replace(", ...]", "")
        about = typer.Option(help=words, metavar=kind.upper() + ("[,...]" if isinstance(default, tuple) else ""))
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, about]
        )

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function, eval_str=True)
        mine = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [option(name) for name in names]
        function.__signature__ = own.replace(parameters=[*mine, *options])
        function.__annotations__ = {each.name: each.annotation for each in (*mine, *options)}
        return function

    return wrapped


@app.command("run")
@with_settings(ALL)
def _run_command(
    out: Out = None,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what to expect.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
    **settings: str | None,
) -> None:
    """Cut a model down to what some documents need; the same command goes on after a kill."""
    read = read_config(config) if config is not None else {}
    named = read.pop("out", None)
    if named is not None and not isinstance(named, str):
        raise ValueError(f"out is {named!r}; it must name a new or an empty folder")
    out = out if out is not None or named is None else Path(named)
    chosen = _settings(read, settings)
    if out is None and not dry_run:
        raise ValueError("out is missing; it must name a new or an empty folder")
    if dry_run:
        from narrowlib.recipe.estimate import estimate

        _print(estimate(chosen).to_string(header=False))
        return
    from narrowlib.recipe.narrowing import run

    _print_report(run(chosen, out, progress=not quiet))


@app.command("scores")
@with_settings(FOR_SCORES)
def _scores_command(
    out: Annotated[Path, typer.Option(help="Table to write, .parquet or .csv.")],
    config: Config = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
    **settings: str | None,
) -> None:
    """Write how much every unit of a model matters to some documents."""
    read = read_config(config) if config is not None else {}
    chosen = _settings({"sparsity": 0.5, **read}, settings)  # nothing is cut; a sparsity makes the settings whole
    from narrowlib.recipe.tables import score_table, write_table

    write_table(lambda: score_table(chosen, progress=not quiet), out)
    _print(str(out))


@app.command("evaluate")
@with_settings(FOR_LOSSES)
def _evaluate_command(
    folder: Folder,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
    **settings: str | None,
) -> None:
    """Print the losses of a narrowed model, on the documents of its run unless others are named."""
    from narrowlib.recipe.tables import loss_table

    given = {name: value for name, value in settings.items() if value is not None}
    _print(loss_table(folder, given, progress=not quiet).to_string(index=False, float_format="{:.6f}".format))


@app.command("report")
def _report_command(folder: Folder) -> None:
    """Write the report of a narrowed model again, from its numbers, and print them."""
    from narrowlib.recipe.report import Report, write_report

    report = Report.read(folder)
    write_report(report.numbers, folder)
    _print_report(report)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; what cannot be done is told in one sentence, with the exit code 2."""
    from narrowlib.store.downloads import UnavailableError

    try:
        code = app(args=arguments, prog_name="narrow", standalone_mode=False) or 0
        if code == INTERRUPTED:
            print("interrupted; the same command goes on from here", file=sys.stderr)
        return code
    except (ValueError, UnavailableError, MemoryError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    except Exception as error:  # what the parser of flags refuses is of no public class
        if not hasattr(error, "format_message"):
            raise
        print(f"{error.format_message()} (narrow --help says more)", file=sys.stderr)
        return 2


def _settings(read: dict[str, Any], settings: dict[str, str | None]) -> RecipeConfig:
    return RecipeConfig.of({**read, **{name: value for name, value in settings.items() if value is not None}})


def _print_report(report: Any) -> None:
    _print(report.losses.round(3).to_string())
    _print(report.sizes.map("{:,.6g}".format).to_string())
    if not report.numbers["target met"]:
        _print("no cut kept the loss at or below target_loss: this is the model before any cut")
    _print(str(report.folder / "report.html"))


def _print(text: str) -> None:
    print(text, flush=True)
