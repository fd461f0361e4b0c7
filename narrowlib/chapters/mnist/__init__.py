"""Chapter mnist: claims M1 and M2."""

from narrowlib.chapters.mnist.config import EVEN, Config
from narrowlib.chapters.mnist.decisions import front_outcome, shrinking_outcome, size_ratios, tuned_said
from narrowlib.chapters.mnist.experiment import compare, tables
from narrowlib.chapters.mnist.figures import plot_digits, plot_forgetting_panels, plot_fronts, plot_shrinking
from narrowlib.chapters.mnist.outcomes import (
    best_networks,
    best_settings,
    dominance,
    forgetting,
    mistakes,
    pareto_front,
)
from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.claims import assess, assess_all, reasons, verdict
from narrowlib.data.digits import mnist_digits
from narrowlib.devices import pick_device
from narrowlib.stacks.networks import accuracies
from narrowlib.store.provenance import provenance
from narrowlib.store.records import origin, paper_record
