"""Settings of the chapter ranking."""

from __future__ import annotations

from pydantic import Field, model_validator

from narrowlib.chapters.mnist.config import Config as MnistPage
from narrowlib.chapters.mnist.config import Even, MethodConfig, MnistConfig
from narrowlib.chapters.pages import Page
from narrowlib.settings import Count, Numbers, Rate, part
from narrowlib.stacks.training import StepConfig


class Config(Page):
    """Parameters of the page; the defaults are those of the record, with the paper's teacher and step sizes."""

    teacher_width: Count = Field(1_200, description="neurons in each of the teacher's hidden layers")
    teacher_epochs: Count = Field(20, description="largest number of passes over all training digits")
    neurons: Numbers[Even] = Field((50, 100, 200, 400), description="neurons kept in both layers, even")
    rates: Numbers[Rate] = Field((4e-4, 1e-3, 3e-3, 6e-3), description="step sizes of Adam after the cut")
    n_repeats: Count = Field(10, description="runs of every setting")
    max_points: Count = Field(50_000, description="training samples that a run may see")

    @model_validator(mode="after")
    def _teacher_is_larger(self) -> Config:
        if max(self.neurons) > 2 * self.teacher_width:
            raise ValueError(
                f"neurons holds {max(self.neurons)}; it must be at most the teacher's {2 * self.teacher_width}"
            )
        return self

    @part
    def comparison(self) -> MnistConfig:
        """The settings of the chapter mnist for the runs, with the same steps for every way."""
        page = self.build(MnistPage, pruned_neurons=self.neurons, lasso_neurons=self.neurons, neurons=self.neurons)
        method = self.build(MethodConfig, {"learning_rates": "rates"}, step=StepConfig(batch_size=16))
        return page.comparison.replace(attribution=method, scratch=method)
