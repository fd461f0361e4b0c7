"""The type of a folder among a page's parameters, so that its first cell refuses what could only fail later."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo


def _writable(value: str, info: ValidationInfo) -> str:
    if not value:
        return value
    try:
        path = Path(value).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # raises for a name that no file can have
        there = next(each for each in (path, *path.parents) if each.exists())
        if value.strip() and there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return value
    except (OSError, ValueError, RuntimeError):
        pass
    raise ValueError(f"{info.field_name} is {value!r}; it must be a folder that can be written, or empty")


Folder = Annotated[str, AfterValidator(_writable)]  # empty for none
