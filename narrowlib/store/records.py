"""Records of runs: a table, the parameters that made it, and its provenance.

A record is two files, ``NAME.parquet`` and ``NAME.json``.  The second names the sha256 sum of the first,
so half a copy or a table edited by hand is noticed.  No pickle is written or read.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from narrowlib.store.files import replacing, sha256_of
from narrowlib.store.provenance import REPOSITORY, provenance  # noqa: F401 (pages import it from here)

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (REPOSITORY / "results" / "paper", _PACKAGE / "_book" / "paper")  # checkout, wheel
PAPER_RESULTS = next(filter(Path.is_dir, _PLACES), _PLACES[0])


@dataclass(frozen=True)
class Record:
    """A table of results with its parameters and provenance.

    Parameters
    ----------
    name : str
        File name without an ending; letters, digits, ``-`` and ``_``.
    frame : DataFrame
        The results, tidy.
    config : dict
        Parameters of the run; anything that json holds.
    provenance : dict
        Where and with what it was made, see `narrowlib.store.provenance`.
    """

    name: str
    frame: pd.DataFrame
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"name is {self.name!r}; it must consist of letters, digits, - and _")


class BadRecordError(ValueError):
    """A record on disk that is missing, incomplete or damaged."""


def save(record: Record, folder: str | Path) -> Path:
    """Write a record and return the path of its table.

    Both files are written under a temporary name and then renamed, the json file last: a full disk leaves the old
    record; a run that is killed the old one or the new one or, between the two, a pair that `load` refuses.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table, about = _paths(folder, record.name)
    with replacing(about) as new_about, replacing(table) as new_table:  # both are there before the first is renamed
        record.frame.to_parquet(new_table, index=False, compression="zstd")
        described = {"name": record.name, "sha256": sha256_of(new_table)}
        described |= {"config": record.config, "provenance": record.provenance}
        new_about.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return table


def load(name: str, folder: str | Path = PAPER_RESULTS) -> Record:
    """Read a record back.

    Raises
    ------
    BadRecordError
        When a file is missing or damaged, or the table is not the one that was described.
    """
    table, about = _paths(Path(folder), name)
    for path in (table, about):
        if not path.is_file():
            raise BadRecordError(f"the record {name!r} is incomplete: {path} is missing")
    try:
        described = json.loads(about.read_text(encoding="utf-8"))
        expected, config, made = described["sha256"], described.get("config", {}), described.get("provenance", {})
        if not isinstance(config, dict) or not isinstance(made, dict):
            raise ValueError("config and provenance must be mappings")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRecordError(f"the record {name!r} cannot be read: {about} is damaged ({error})") from error
    if sha256_of(table) != expected:
        raise BadRecordError(f"the record {name!r} is damaged: {table} is not the table described in {about}")
    try:
        return Record(name, pd.read_parquet(table), config, made)
    except (ValueError, OSError) as error:  # what pyarrow raises for another format
        raise BadRecordError(f"the record {name!r} is damaged: {table} is not a parquet file") from error


def paper_record(chapter: str, name: str) -> Record | None:
    """The record of a chapter at the paper's scale; None if there is none.

    Raises
    ------
    BadRecordError
        When there is a record and it is damaged.
    """
    folder = PAPER_RESULTS / chapter
    return load(name, folder) if any(path.exists() for path in _paths(folder, name)) else None


def origin(record: Record) -> pd.DataFrame:
    """The origin of a record for readers: how it was made, and where it departs from the paper's scale.

    Returns
    -------
    DataFrame
        A row for the device, the versions, the commit and the time, a ``note`` if there is one, and a row for each
        parameter that departs.
    """
    made = record.provenance
    rows = {"device": made.get("device"), "versions": f"Python {made.get('python')}, torch {made.get('torch')}"}
    rows |= {
        "commit": (made.get("commit") or "unknown")[:12] + (" with uncommitted changes" if made.get("dirty") else "")
    }
    rows |= {"recorded": made.get("time")}
    rows |= {"note": made["note"]} if "note" in made else {}
    for name, value in made.get("departures", {}).items():
        rows[name] = f"{value['here']} instead of {value['paper']}"
    return pd.Series(rows, name="this record").to_frame()


def is_first_process() -> bool:
    """Whether this process is alone or, under ``torchrun``, the one that writes for all."""
    return not are_several() or torch.distributed.get_rank() == 0


def are_several() -> bool:
    """Whether several processes work together, as under ``torchrun``."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.parquet", folder / f"{name}.json"
