"""Chapter llm-frontier: claim L3."""

from narrowlib.chapters.frontier.config import Config
from narrowlib.chapters.frontier.experiment import FrontierStudy, tables
from narrowlib.chapters.frontier.figures import (
    plot_frontier,
    plot_frontiers,
    plot_gains,
    plot_learning_curves,
    plot_scaling,
)
from narrowlib.chapters.frontier.outcomes import (
    common_target,
    fixed_target,
    frontier,
    frontier_measures,
    frontiers,
    papers_points,
    spaced_targets,
    teacher_gains,
)
from narrowlib.chapters.frontier.scaling import PAPER, papers_gaps, scaling_points, scaling_said
from narrowlib.chapters.language.config import RANKED_BY, records_of
from narrowlib.chapters.style import book_theme, plot_pending
from narrowlib.claims import assess, load_claims, reasons, verdict
from narrowlib.store.provenance import provenance
from narrowlib.store.records import origin
