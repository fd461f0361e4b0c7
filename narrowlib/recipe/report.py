"""What a narrowing cost, as numbers, as a page that needs nothing but itself, and as the card of the model."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from narrowlib.store.files import replacing

NUMBERS, PAGE, CARD = "report.json", "report.html", "README.md"
_LOOKS = {  # of a split: colour of seaborn's colorblind palette, marker
    "train": ("#de8f05", "s"),
    "train, hard": ("#029e73", "^"),
    "held out": ("#0173b2", "o"),
}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("narrowlib.recipe"), autoescape=jinja2.select_autoescape(["html"]), trim_blocks=True
)


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
                f"{str(folder)!r} holds no {NUMBERS} of a narrowed model; it must be the out of narrow run"
            )
        return report

    @classmethod
    def read_if_there(cls, folder: Path) -> Report | None:
        """The report in a folder, or None where there is none that can be read."""
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
    def curves(self) -> pd.DataFrame:
        """Losses during training: ``stage``, ``step``, ``tokens`` (of all stages so far), ``split``, ``loss``."""
        return pd.DataFrame(self.numbers["curves"])


def write_report(numbers: Mapping[str, Any], folder: str | Path) -> None:
    """Write numbers, page and card into a folder that is there."""
    report = Report(Path(folder), dict(numbers))
    with replacing(report.folder / NUMBERS) as temporary:
        temporary.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    shown = {
        "losses": report.losses.round(3).reset_index().to_dict("records"),
        "sizes": [{"what": what, **row} for what, row in report.sizes.to_dict("index").items()],
        "settings": {name: value for name, value in numbers["made from"]["settings"].items() if _is_set(value)},
        "numbers": numbers,
        "curves": Markup(_curves(report)),  # noqa: S704 (escaped above)
    }
    for name in (PAGE, CARD):
        page = _TEMPLATES.get_template(name).render(shown)
        with replacing(report.folder / name) as temporary:
            temporary.write_text(page, encoding="utf-8")


def _is_set(value: Any) -> bool:
    return value not in (None, "", [])


def _curves(report: Report) -> str:
    """The course of the losses as an svg element, the same bytes for the same numbers."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    ax = figure.add_subplot()
    for split, rows in report.curves.groupby("split", sort=False):
        colour, marker = _LOOKS[split]
        for number, (_, stage) in enumerate(rows.groupby("stage", sort=False)):
            look = {"color": colour, "marker": marker, "markersize": 4}
            ax.plot(stage["tokens"], stage["loss"], label=split if not number else None, **look)
    ax.axhline(report.losses.loc["keep", "before"], color="#6b6b6b", linestyle="--", label="held out, before")
    ax.set(xlabel="training tokens", ylabel="loss on what is kept (nats per token)")
    ax.legend(frameon=False)
    ax.grid(alpha=0.4)
    drawn = io.StringIO()
    with rc_context({"svg.hashsalt": "narrowlib"}):
        FigureCanvasSVG(figure).print_svg(drawn, metadata={"Date": None})
    element = drawn.getvalue()[drawn.getvalue().index("<svg") :]
    words = "Loss on what is kept against training tokens, held out and in training"
    return element.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
