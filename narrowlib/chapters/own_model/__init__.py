"""Chapter recipe: narrow a model of your own."""

from narrowlib.chapters.own_model.config import Config
from narrowlib.chapters.own_model.experiment import budget_curves, write_sources
from narrowlib.chapters.own_model.figures import plot_budget, plot_kept_and_lost
from narrowlib.chapters.style import book_theme
from narrowlib.recipe.narrowing import narrow
from narrowlib.store.provenance import provenance
