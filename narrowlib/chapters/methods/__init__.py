"""Chapter methods: samples of the CMSP task."""

from narrowlib.chapters.methods.config import Config
from narrowlib.chapters.methods.experiment import example_samples
from narrowlib.chapters.methods.figures import plot_samples
from narrowlib.chapters.style import book_theme
from narrowlib.cmsp import CMSP, parity_labels, sample_batch
