"""Settings of the chapter lasso-map."""

from typing import Self

from pydantic import Field, model_validator

from narrowlib.chapters.two_trees.config import GroupLassoConfig, NonlocalityPage
from narrowlib.settings import AutoPrecision, Count, NotNegative, Numbers, Rate, Share, part


class Config(NonlocalityPage):
    """Parameters of the page; the defaults are those of the record, whose networks are those of nonlocality."""

    recovery_batch_size: int = Field(2_000, ge=1, le=1_000_000, description="samples in a step after pruning")
    precision: AutoPrecision = Field("auto", description="precision of matrix products in training")
    wide_width: int = Field(128, ge=2, le=65_536, description="neurons in a hidden layer of the widest networks")
    n_widths: int = Field(3, ge=2, le=12, description="number of widths, with equal ratios")
    strengths: Numbers[NotNegative] = Field(
        (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), description="lambda, weights of the penalty; 0 is the control"
    )
    steps: Numbers[Count] = Field((300, 1_000, 3_000, 10_000), description="training steps with the penalty")
    lasso_batch_size: Count = Field(2_000, description="samples in a step with the penalty")
    lasso_rate: Rate = Field(1e-3, description="step size of Adam with the penalty")
    sparsities: Numbers[Share] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95), description="shares of neurons removed"
    )

    @model_validator(mode="after")
    def _has_a_control(self) -> Self:
        if min(self.strengths) > 0 or len(self.strengths) < 2:
            given = " ".join(f"{strength:g}" for strength in self.strengths)
            raise ValueError(f"strengths is {given!r}; it must hold 0, the control, and a number above it")
        return self

    @part
    def lasso(self) -> GroupLassoConfig:
        """Training with the penalty, for the largest number of steps."""
        names = {"batch_size": "lasso_batch_size", "learning_rate": "lasso_rate"}
        return self.build(GroupLassoConfig, names, n_steps=max(self.steps))
