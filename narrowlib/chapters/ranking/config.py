"""Settings of the chapter ranking."""

from pydantic import Field

from narrowlib.chapters.mnist.config import Config as MnistPage
from narrowlib.chapters.mnist.config import Even, MethodConfig, MnistConfig, TeacherPage
from narrowlib.settings import Count, Numbers, Rate, part
from narrowlib.stacks.training import StepConfig


class Config(TeacherPage):
    """Parameters of the page; the defaults are those of the record, with the paper's teacher and step sizes."""

    neurons: Numbers[Even] = Field((50, 100, 200, 400), description="neurons kept in both layers, even")
    rates: Numbers[Rate] = Field((4e-4, 1e-3, 3e-3, 6e-3), description="step sizes of Adam after the cut")
    n_repeats: Count = Field(10, description="runs of every setting")
    max_points: Count = Field(50_000, description="training samples that a run may see")

    @part
    def comparison(self) -> MnistConfig:
        """The settings of the chapter mnist for the runs, with the same steps for every way."""
        page = self.build(MnistPage, pruned_neurons=self.neurons, lasso_neurons=self.neurons, neurons=self.neurons)
        method = self.build(MethodConfig, {"learning_rates": "rates"}, step=StepConfig(batch_size=16))
        return page.comparison.replace(attribution=method, scratch=method)
