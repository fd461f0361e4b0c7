"""Parameters that all pages have in common."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo

from narrowlib.settings import Device, Settings

WHERE = ("device", "checkpoints")  # parameters that say where a run is made, not what


def can_be_written(folder: Path) -> bool:
    """Whether files can be left in a folder, or in one that can still be made there."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _writable(value: str, info: ValidationInfo) -> str:
    if not value:
        return value
    try:
        path = Path(value).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # raises for a name that no file can have
        if value.strip() and can_be_written(path):
            return value
    except (OSError, ValueError, RuntimeError):
        pass
    raise ValueError(f"{info.field_name} is {value!r}; it must be a folder that can be written, or empty")


# Empty for none.  The first cell of a page refuses what could only fail later.
Folder = Annotated[str, AfterValidator(_writable)]


def chosen_pieces(names: Iterable[str], piece: str) -> list[str]:
    """The tables of a record that are asked for: all of them, or the one of a piece of the work.

    Raises
    ------
    ValueError
        For an unknown piece.
    """
    known = list(names)
    if piece and piece not in known:
        raise ValueError(f"piece is {piece!r}; it must be one of {', '.join(known)}")
    return [piece] if piece else known


class Page(Settings):
    """Parameters of a page: those of its experiments, which stand in the classes beside, and where it runs."""

    shown_only: ClassVar[tuple[str, ...]] = ()  # parameters that no run depends on

    device: Device = Field("auto", description="where to run")
    checkpoints: Folder = Field("", description="folder to keep results in and resume from; empty for none")

    @property
    def asked(self) -> dict[str, Any]:
        """Every parameter that runs depend on, as in a parameters cell."""
        return {name: value for name, value in self.to_parameters().items() if name not in (*WHERE, *self.shown_only)}
