"""Types of the names among a page's parameters: of a model, a data set; see `narrowlib.chapters.pages`.

A name on the Hugging Face hub is checked for its form; whether there is such a model, loading it tells.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from narrowlib.data.tokens import PACKAGES
from narrowlib.llm.models import OWN, SMALL_NAME

OWN_MODELS = (*OWN, SMALL_NAME)
_ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def _refused(value: str, info: ValidationInfo, legal: str) -> ValueError:
    return ValueError(f"{info.field_name} is {value!r}; it must be {legal}")


def _model(value: str, info: ValidationInfo) -> str:
    legal = f"{', '.join(OWN_MODELS)}, a folder with a config.json, or a name on the hub, OWNER/NAME"
    try:
        is_folder = (Path(value).expanduser() / "config.json").is_file()
    except (OSError, ValueError, RuntimeError):
        is_folder = False
    if value in OWN_MODELS or is_folder or _ON_HUB.fullmatch(value):
        return value
    raise _refused(value, info, legal)


def _source(value: str, info: ValidationInfo) -> str:
    if value == PACKAGES or _ON_HUB.fullmatch(value):
        return value
    raise _refused(value, info, f"{PACKAGES} or a data set on the hub, OWNER/NAME")


ModelName = Annotated[str, AfterValidator(_model)]
Source = Annotated[str, AfterValidator(_source)]
