"""Chapter hierarchy: claims H1, H2 and H3, that some skills need others first."""

from narrowlib.chapters.hierarchy.config import Config
from narrowlib.chapters.hierarchy.experiment import (
    compare_counts,
    converged_runs,
    counted_runs,
    learning_curves,
    samples_to_learn,
    tables,
)
from narrowlib.chapters.hierarchy.figures import plot_composite_curves, plot_converged, plot_task_curves, plot_waiting
from narrowlib.chapters.hierarchy.outcomes import (
    breadth_outcome,
    breadth_said,
    composite_times,
    depth_outcome,
    depth_said,
    order_outcome,
    order_said,
    outcome,
)
from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.claims import assess, assess_all, load_claims, reasons, verdict
from narrowlib.store.records import origin, paper_record, provenance
