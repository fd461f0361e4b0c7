"""The command ``narrow``: its flags are the settings of `narrowlib.recipe.settings.RecipeConfig`."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from narrowlib import __version__
from narrowlib.recipe.settings import GROUPS, HOW_MUCH, PAGE, REPEATED, RecipeConfig
from narrowlib.settings import SettingsError, about_setting, add_flags, read_yaml
from narrowlib.store.downloads import UnavailableError

if TYPE_CHECKING:
    from narrowlib.recipe.report import Report

INTERRUPTED = 130  # exit code after Ctrl-C
FOR_LOSSES = (*REPEATED, "column", "held_out_tokens", "block_length", "held_out_share", "seed", "device")
FOR_SCORES = ("keep", "include", "exclude", "model", "column", "units", "method", "score_tokens")
FOR_SCORES += ("block_length", "held_out_share", "seed", "device")
EXAMPLES = {
    "run": """examples:
  narrow run --keep my-sources/ --exclude tests/ --sparsity 50% --out narrow-model
  narrow run --keep notes.txt --keep python=0.5 --units neurons,residual --sparsity 0.5,0.25 --out narrow-model
  narrow run --keep chats.jsonl --model ./my-model --target-parameters 100M --recovery-tokens 1M --out narrow-model
  narrow run --keep my-sources/ --sparsity 50% --dry-run

Numbers may end in k, M, G (thousand, million, billion) or %.""",
    "scores": "example:\n  narrow scores --keep my-sources/ --method wanda --out scores.csv",
    "sweep": "example:\n  narrow sweep --keep my-sources/ --sparsities 25%,50%,75% --out sweep",
    "evaluate": "example:\n  narrow evaluate narrow-model --lose english",
    "init": "example:\n  narrow init narrow.yaml && narrow run --config narrow.yaml",
}
WRITERS = {".parquet": "to_parquet", ".csv": "to_csv"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser("narrow", description="Narrow a language model to what your documents need.")
    parser.add_argument("--version", action="version", version=f"narrow {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(function: Any, names: Sequence[str] = (), **options: dict[str, Any]) -> None:
        about = function.__doc__
        name = function.__name__.strip("_")
        how_shown = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLES.get(name)}
        added = commands.add_parser(name, help=about, description=about, allow_abbrev=False, **how_shown)
        added.set_defaults(command=function, parser=added)
        for name, how in options.items():
            added.add_argument(name if name in ("folder", "file") else f"--{name.replace('_', '-')}", **how)
        add_flags(added, RecipeConfig, names, repeated=REPEATED, groups=GROUPS)

    folder = {"type": Path, "help": "folder written by narrow run --out"}
    config = {"type": Path, "help": "YAML file of settings with the names of the flags; flags take precedence"}
    quiet = {"action": "store_true", "help": "no progress bars"}
    dry_run = {"action": "store_true", "help": "print only the estimates"}
    out = {"type": Path, "help": "new or empty folder for the checkpoint and its report"}
    table = {"type": Path, "required": True, "help": "table to write, .parquet or .csv"}
    command(_run, tuple(RecipeConfig.model_fields), out=out, config=config, dry_run=dry_run, quiet=quiet)
    swept = tuple(name for name in RecipeConfig.model_fields if name not in HOW_MUCH)
    several = {"required": True, "help": "shares of the units to cut, one model each: 25%%,50%%,75%%"}
    into = {"type": Path, "required": True, "help": "folder for the models, a table and a figure"}
    command(_sweep, swept, sparsities=several, out=into, config=config, quiet=quiet)
    command(_scores, FOR_SCORES, out=table, config=config, quiet=quiet)
    command(_evaluate, FOR_LOSSES, folder=folder, quiet=quiet)
    command(_report, folder=folder)
    file = {"type": Path, "nargs": "?", "default": Path("narrow.yaml"), "help": "new YAML file [narrow.yaml]"}
    command(_init, file=file)
    return parser


def _run(values: dict[str, Any], out: Path | None, config: Path | None, dry_run: bool, quiet: bool) -> None:
    """Cut a model down to what your documents need; after an interruption, the same command continues."""
    read = _read(config)
    named = read.pop("out", None)
    if named is not None and not isinstance(named, str):
        raise ValueError(f"out is {named!r}; it must name a new or empty folder")
    out = out or (Path(named) if named else None)
    chosen = RecipeConfig(**{**read, **values})
    if dry_run:
        from narrowlib.recipe.estimate import estimate

        _print(estimate(chosen).to_string(header=False))
        return
    if out is None:
        raise ValueError("out is missing; it must name a new or empty folder")
    from narrowlib.recipe.narrowing import run

    _print_report(run(chosen, out, progress=not quiet))


def _sweep(values: dict[str, Any], sparsities: str, out: Path, config: Path | None, quiet: bool) -> None:
    """Cut a model down to several sizes and compare them; after an interruption, the same command continues."""
    from narrowlib.recipe.sweep import configs_of, sweep

    configs = configs_of({**_read(config), **values}, sparsities)
    table = sweep(configs, out, progress=not quiet)
    _print(table.round(3).to_string(index=False))


def _scores(values: dict[str, Any], out: Path, config: Path | None, quiet: bool) -> None:
    """Write the score of every unit of a model on your documents."""
    from narrowlib.recipe.cut import score_table
    from narrowlib.store.files import replacing

    chosen = RecipeConfig(**{"sparsity": 0.5, **_read(config), **values})  # nothing is cut; one target must be given
    if out.suffix not in WRITERS:
        raise ValueError(f"out is {str(out)!r}; it must end in {' or '.join(WRITERS)}")
    if out.exists():
        raise ValueError(f"out is {str(out)!r}, which already exists; it must be a new file")
    table = score_table(chosen, progress=not quiet)
    with replacing(out) as temporary:
        getattr(table, WRITERS[out.suffix])(temporary, index=False)
    _print(str(out))


def _evaluate(values: dict[str, Any], folder: Path, quiet: bool) -> None:
    """Print the losses of a narrowed model on the documents of its run, or on others."""
    from narrowlib.recipe.report import loss_table

    _print(loss_table(folder, values, progress=not quiet).to_string(index=False, float_format="{:.6f}".format))


def _report(values: dict[str, Any], folder: Path) -> None:
    """Rewrite the report of a narrowed model from its numbers, and print them."""
    from narrowlib.recipe.report import Report, write_report

    report = Report.read(folder)
    write_report(report.numbers, folder)
    _print_report(report)


def _init(values: dict[str, Any], file: Path) -> None:
    """Write a file for narrow run --config with every setting, its default and its meaning."""
    if file.exists():
        raise ValueError(f"file is {str(file)!r}, which already exists; it must be a new file")
    lines = ["# For narrow run --config; a setting after # has its default.", ""]
    example = {"keep": "my-sources/", "sparsity": "50%", "out": "narrow-model"}
    lines += ["# new or empty folder for the checkpoint and its report", f"out: {example['out']}"]
    for row in RecipeConfig.parameters_table():
        if row.name in GROUPS:
            lines += ["", f"## {GROUPS[row.name]}"]
        default = "" if row.default is None else json.dumps(row.default)
        value = f"{row.name}: {example[row.name]}" if row.name in example else f"# {row.name}: {default}".rstrip()
        lines += textwrap.wrap(about_setting(row), 110, initial_indent="# ", subsequent_indent="# ")
        lines += [value]
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"file is {str(file)!r}, which cannot be written: {error.strerror}") from error
    _print(str(file))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; each fault is reported in one sentence, with exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    try:
        given, unknown = parser.parse_known_args(arguments)
        if unknown:
            flags = re.findall(r"--[a-z][a-z-]+", given.parser.format_help())
            near = difflib.get_close_matches(unknown[0], flags, n=1)
            word = unknown[0] if unknown[0].isprintable() and unknown[0].strip() else repr(unknown[0])
            given.parser.error(f"{word} is not an option here" + (f"; did you mean {near[0]}?" if near else ""))
        words = {name: value for name, value in vars(given).items() if name not in ("command", "parser")}
        values = {name: words.pop(name) for name in RecipeConfig.model_fields if name in words}
        given.command(values, **words)
    except SystemExit as asked:  # --help
        return asked.code or 0
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return INTERRUPTED
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except (ValueError, UnavailableError, MemoryError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _read(config: Path | None) -> dict[str, Any]:
    """Settings from a file; a line without a value keeps the default."""
    return {name: value for name, value in (read_yaml(config) if config else {}).items() if value is not None}


def _print_report(report: Report) -> None:
    _print(report.headline)
    _print(report.losses.round(3).to_string())
    _print(report.sizes.map("{:,.6g}".format).to_string())
    if not report.accuracies.empty:
        _print(report.accuracies.round(3).to_string())
    if not report.numbers["target met"]:
        _print("no cut kept the loss at or below target_loss: this is the model before any cut")
    if reused := report.numbers.get("reused"):
        _print(f"reused from an earlier run: {', '.join(reused)}")
    if gguf := report.numbers.get("gguf"):
        _print(f"{report.folder / gguf['file']}, {gguf['bytes'] / 1e6:,.1f} MB")
    _print(str(report.folder / PAGE))


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"  # of a terminal that may not know every character
    print(text.encode(encoding, "replace").decode(encoding), flush=True)
