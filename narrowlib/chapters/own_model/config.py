"""Settings of the worked example of narrowing."""

from typing import Annotated, Literal

from pydantic import Field

from narrowlib.chapters.language.names import ModelName
from narrowlib.chapters.pages import Folder
from narrowlib.data.documents import pinned_sources
from narrowlib.settings import AutoPrecision, Count, Device, Part, Rate, Settings

PACKAGES = tuple(
    sorted(each.archive.name for split in ("train", "held-out") for each in pinned_sources("python", split))
)
AtLeastTwo = Annotated[int, Field(ge=2)]


class Config(Settings):
    """Parameters of the chapter; the paper has no such example, and the defaults are for one GPU."""

    model: ModelName = Field("default", description="default, tiny (random), a local folder, or a name on the hub")
    package: Literal[PACKAGES] = Field("sqlglot", description="pinned Python package whose sources are kept")
    lose: Literal["english", "c", "javascript"] = Field("english", description="text that the model may lose")
    neuron_sparsity: Part = Field(0.5, description="share of the MLP neurons to cut")
    residual_sparsity: Part = Field(0.2, description="share of the residual dimensions to cut")
    score_tokens: AtLeastTwo = Field(262_144, description="tokens for the scores")
    recovery_tokens: Count = Field(4_194_304, description="training tokens after the cut")
    block_length: AtLeastTwo = Field(1_024, description="tokens per block")
    batch_size: Count = Field(16, description="blocks per training step")
    held_out_tokens: AtLeastTwo = Field(65_536, description="tokens of each text for the losses")
    learning_rate: Rate = Field(3e-4, description="step size of AdamW in recovery")
    precision: AutoPrecision = Field("bfloat16", description="precision of matrix products in training")
    device: Device = Field("auto", description="where to run")
    out: Folder = Field("_build/narrow-model", description="folder for the result; empty: a temporary one")
