"""Page small-base: a small language model that is trained here, what it knows, and how its record is made."""

from narrowlib.chapters.language.recovery import completions
from narrowlib.chapters.small_base.config import Config
from narrowlib.chapters.small_base.experiment import files, tables, trained
from narrowlib.chapters.small_base.figures import plot_curve, plot_skill_losses
from narrowlib.chapters.small_base.outcomes import against_trigram, shares_said, skills_said
from narrowlib.chapters.style import book_theme
from narrowlib.llm.models import load_causal_lm
from narrowlib.store.provenance import provenance
from narrowlib.store.records import origin, paper_record
