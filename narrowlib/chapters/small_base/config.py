"""Settings of the page on the small base model."""

from pathlib import Path

from pydantic import Field

from narrowlib.chapters.pages import Folder, Page
from narrowlib.devices import pick_device
from narrowlib.llm.small_base import NAME, SmallBaseConfig, cached_folder
from narrowlib.settings import Count
from narrowlib.store.digests import digest_of


class Config(Page, SmallBaseConfig):
    """Parameters of the page; the defaults are the recipe of the record."""

    n_held_out_blocks: Count = Field(128, description="held-out blocks of every skill for the losses")
    checkpoints: Folder = Field("", description="folder to keep progress in and resume from; empty for the cache")

    @property
    def recipe(self) -> SmallBaseConfig:
        """The settings that the training depends on."""
        return self.build(SmallBaseConfig)

    @property
    def folder(self) -> Path:
        """Folder of the training, named by its settings alone, so that another version of this code can continue it.

        A GPU has its own.  In the cache the code counts too.
        """
        place = pick_device(self.device).type
        named = "-".join([NAME, "base", digest_of(self.recipe)[:12], *([place] if place != "cpu" else [])])
        return Path(self.checkpoints, named) if self.checkpoints else cached_folder(self.recipe)
