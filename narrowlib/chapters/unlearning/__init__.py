"""Chapter unlearning: claim U1."""

from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.chapters.unlearning.config import Config
from narrowlib.chapters.unlearning.experiment import tables, whole_model_accuracies
from narrowlib.chapters.unlearning.figures import plot_before_after, plot_relearning
from narrowlib.chapters.unlearning.measures import (
    accuracies,
    arrows,
    clear_wins,
    paper_table,
    relearning_curves,
    tokens_to_relearn,
    unlearning_measures,
)
from narrowlib.claims import assess, reasons, verdict
from narrowlib.data.facts import CHANCE, facts
from narrowlib.store.provenance import provenance
from narrowlib.store.records import origin, paper_record
