"""Settings of the chapter methods."""

from pydantic import Field

from narrowlib.settings import Settings


class Config(Settings):
    """Parameters of the page."""

    n_samples: int = Field(2, ge=1, le=4, description="samples of each task")
    n_task_bits: int = Field(16, ge=9, le=32, description="task bits in the example")
    seed: int = Field(0, ge=0, le=1_000_000, description="seed of the samples")
