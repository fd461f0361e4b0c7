"""Chapter lasso-map, beyond the paper: at which strength, after how many steps and how wide the group lasso works."""

from narrowlib.chapters.lasso_map.config import Config
from narrowlib.chapters.lasso_map.experiment import strength_map, tables
from narrowlib.chapters.lasso_map.figures import plot_fields
from narrowlib.chapters.lasso_map.outcomes import by_width, fields, fields_said, rules_said, width_said
from narrowlib.chapters.style import book_theme
from narrowlib.store.provenance import provenance
from narrowlib.store.records import origin, paper_record
