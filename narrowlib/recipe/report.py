"""The report of a narrowing: losses, sizes and speeds as numbers, as a self-contained page, and as a model card."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from narrowlib.llm.cards import escaped, front_matter
from narrowlib.llm.models import load_causal_lm
from narrowlib.recipe.intake import texts_of
from narrowlib.recipe.measured import losses_of
from narrowlib.recipe.settings import CARD, NUMBERS, PAGE, RecipeConfig
from narrowlib.store.files import replacing

_SHORT = 24  # characters of a name in a line
_IN_MACHINE = re.compile(r"[/\\~.]|[a-zA-Z]:[/\\]")  # how a path begins that says where something lies
_LOOKS = {  # of a split: colour of seaborn's colorblind palette, marker
    "train": ("#de8f05", "s"),
    "train, hard": ("#029e73", "^"),
    "held out": ("#0173b2", "o"),
}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("narrowlib.recipe"), autoescape=jinja2.select_autoescape(["html"]), trim_blocks=True
)
_TEMPLATES.filters |= {
    "escaped": escaped,  # in Markdown; in HTML everything is
    "grouped": lambda number: f"{number:,}".removesuffix(".0"),
    "units": lambda kind: {"residual": "residual dimensions"}.get(kind, kind),
}


@dataclass(frozen=True)
class Report:
    """The numbers of a narrowing and where its checkpoint lies.

    Parameters
    ----------
    folder : Path
        Checkpoint, ``report.html`` and ``report.json``.
    numbers : dict
        As json holds them.
    """

    folder: Path
    numbers: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """The report in a folder.

        Raises
        ------
        ValueError
            When there is none, or it is damaged.
        """
        folder = Path(folder)
        report = cls.read_if_there(folder)
        if report is None:
            raise ValueError(
                f"{str(folder)!r} holds no {NUMBERS} of a narrowed model; it must be a folder written by narrow run"
            )
        return report

    @classmethod
    def read_if_there(cls, folder: Path) -> Report | None:
        """The report in a folder, or None if there is none that can be read."""
        try:
            numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_one = isinstance(numbers, dict) and {"made from", "losses", "shape"} <= set(numbers)
        return cls(folder, numbers) if is_one else None

    @property
    def losses(self) -> pd.DataFrame:
        """Losses in nats per token: a row for every text, columns ``before``, ``after`` and ``change``."""
        table = pd.DataFrame(self.numbers["losses"])
        table = table.pivot(index="text", columns="when", values="loss")[["before", "after"]].rename_axis(columns=None)
        return table.assign(change=table["after"] - table["before"])

    @property
    def sizes(self) -> pd.DataFrame:
        """Sizes and speeds (tokens per second): a row each, columns ``before`` and ``after``."""
        shape, speed = self.numbers["shape"], self.numbers["speed"]
        columns = {
            when: {**shape[when], **{f"{what}, tokens/s": round(rate, 1) for what, rate in speed[when].items()}}
            for when in ("before", "after")
        }
        return pd.DataFrame(columns)

    @property
    def accuracies(self) -> pd.DataFrame:
        """Accuracies of tasks of lm-eval, a row each: columns ``before`` and ``after``; empty without tasks."""
        table = pd.DataFrame(self.numbers.get("accuracies", []), columns=["task", "when", "accuracy"])
        return table.pivot(index="task", columns="when", values="accuracy").rename_axis(columns=None)

    @property
    def headline(self) -> str:
        """Summary in one line: parameters, speed, and losses."""
        shape, speed = self.numbers["shape"], self.numbers["speed"]
        share = 1 - shape["after"]["parameters"] / shape["before"]["parameters"]
        faster = speed["after"]["read"] / speed["before"]["read"]
        losses = [
            f"{self._source(text)} {row['before']:.2f} → {row['after']:.2f}" for text, row in self.losses.iterrows()
        ]
        told = ", ".join(losses)
        return f"{share:.0%} fewer parameters, reads {faster:.1f} times as fast; loss in nats per token: {told}"

    def _source(self, text: str) -> str:
        """The name of a text's source where it is a short one."""
        source = without_folders(self.numbers.get("inputs", {}).get(text, {}).get("source", ""))
        return source if 0 < len(source) <= _SHORT else f"the {text} text"

    @property
    def curves(self) -> pd.DataFrame:
        """Losses during training: ``stage``, ``step``, ``tokens`` (of all stages so far), ``split``, ``loss``."""
        return pd.DataFrame(self.numbers["curves"])


def without_folders(source: str) -> str:
    """Names of sources or models for publication: of local paths, the last part only."""
    return ", ".join(
        PurePath(part.replace("\\", "/")).name or "." if _IN_MACHINE.match(part) else part
        for part in source.split(", ")
    )


def write_report(numbers: Mapping[str, Any], folder: str | Path) -> None:
    """Write numbers, page and card into an existing folder."""
    report = Report(Path(folder), dict(numbers))
    with replacing(report.folder / NUMBERS) as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    shown = {
        "headline": report.headline,
        "without_folders": without_folders,
        "accuracies": _accuracies(report),
        "errors": {(row["text"], row["when"]): row.get("standard_error") for row in report.numbers["losses"]},
        "losses": report.losses.round(3).reset_index().to_dict("records"),
        "sizes": [{"what": what, **row} for what, row in report.sizes.to_dict("index").items()],
        "origin": numbers.get("origin", {}),
        "front_matter": front_matter(numbers.get("origin", {})),
        "command": RecipeConfig(**numbers["made from"]["settings"]).command,
        "settings": {name: value for name, value in numbers["made from"]["settings"].items() if _is_set(value)},
        "numbers": numbers,
        "curves": Markup(_curves(report)),  # noqa: S704 (escaped above)
    }
    for name in (PAGE, CARD):
        page = _TEMPLATES.get_template(name).render(shown)
        with replacing(report.folder / name) as temporary:
            temporary.write_text(page, encoding="utf-8")


def _accuracies(report: Report) -> list[dict[str, Any]]:
    """Rows of the table: task, how many questions, accuracy and standard error before and after."""
    rows: dict[str, dict[str, Any]] = {}
    for each in report.numbers.get("accuracies", []):
        row = rows.setdefault(each["task"], {"task": each["task"], "n_questions": each["n_questions"]})
        row[each["when"]] = (each["accuracy"], each["standard_error"])
    return list(rows.values())


def _is_set(value: Any) -> bool:
    return value not in (None, "", [])


def _curves(report: Report) -> str:
    """The course of the losses as an svg element."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.add_subplot()
    for split, rows in report.curves.groupby("split", sort=False):
        colour, marker = _LOOKS[split]
        for number, (_, stage) in enumerate(rows.groupby("stage", sort=False)):
            look = {"color": colour, "marker": marker, "markersize": 4}
            ax.plot(stage["tokens"], stage["loss"], label=split if not number else None, **look)
    start = report.numbers.get("select before", report.losses.loc["keep", "before"])  # not in older reports
    ax.axhline(start, color="#6b6b6b", linestyle="--", label="held out, before")
    ax.set(xlabel="training tokens", ylabel="loss on what is kept (nats per token)")
    ax.legend(frameon=False)
    ax.grid(alpha=0.4)
    words = "Loss on what is kept against training tokens, on held-out and on training documents"
    return svg_of(figure).replace("<svg", f'<svg role="img" aria-label="{words}"', 1)


def svg_of(figure: Figure) -> str:
    """A figure as an svg element, the same bytes for the same numbers."""
    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": "narrowlib"}):
        FigureCanvasSVG(figure).print_svg(drawn, metadata={"Date": None})
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def loss_table(folder: str | Path, settings: Mapping[str, Any], *, progress: bool = True) -> pd.DataFrame:
    """Losses of a narrowed model on held-out documents: those of its own run, unless ``settings`` name others.

    Parameters
    ----------
    folder : path
        The ``out`` of `narrowlib.recipe.narrowing.run`.
    settings : mapping of str to Any
        In place of those of the run.

    Returns
    -------
    DataFrame
        See `narrowlib.llm.losses.loss_per_skill`, with ``text`` for the skill.
    """
    config = RecipeConfig(**{**Report.read(folder).numbers["made from"]["settings"], **settings})
    language_model = load_causal_lm(folder, device=config.device, block_length=config.block_length)
    options = {"at_most": config.held_out_tokens, "block_length": config.block_length, "progress": progress}
    texts = texts_of(config).items()
    held_out = {name: text.blocks(language_model.tokenizer, "held-out", **options) for name, text in texts}
    return pd.DataFrame(losses_of(language_model.model, held_out, "now", progress=progress))
