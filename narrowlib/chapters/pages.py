"""Parameters that all pages have in common."""

from __future__ import annotations

import contextlib
import os
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


class Page(Settings):
    """Parameters of a page: those of its experiments, which stand in the classes beside, and where it runs."""

    shown_only: ClassVar[tuple[str, ...]] = ()  # parameters that no run depends on

    device: Device = Field("auto", description="where to run")
    checkpoints: Folder = Field("", description="folder to keep results in and resume from; empty for none")

    @property
    def asked(self) -> dict[str, Any]:
        """Every parameter that runs depend on, as in a parameters cell."""
        return {name: value for name, value in self.to_parameters().items() if name not in (*WHERE, *self.shown_only)}
