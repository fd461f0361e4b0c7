"""Chapter breadth, beyond the paper: which tasks a composite task is learned together with, and in which amounts."""

from narrowlib.chapters.breadth.config import Config
from narrowlib.chapters.breadth.experiment import tables, times_to_learn
from narrowlib.chapters.breadth.figures import plot_map, plot_times
from narrowlib.chapters.breadth.outcomes import (
    answers,
    breadth_map,
    law_of_breadth,
    law_said,
    learning_summary,
    map_said,
    only_harder,
)
from narrowlib.chapters.censored import said
from narrowlib.chapters.hierarchy.figures import plot_waiting
from narrowlib.chapters.style import book_theme
from narrowlib.store.provenance import provenance
from narrowlib.store.records import origin, paper_record
