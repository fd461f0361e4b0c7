"""Chapter ranking, beyond the paper: is a pruned network's head start its ranking or its teacher?"""

from narrowlib.chapters.ranking.config import Config
from narrowlib.chapters.ranking.experiment import points_to_goal, tables
from narrowlib.chapters.ranking.figures import plot_shares, plot_ways
from narrowlib.chapters.ranking.outcomes import against_attribution, at_best_rate, head_start_said, shares_explained
from narrowlib.chapters.style import book_theme
from narrowlib.data.digits import mnist_digits
from narrowlib.devices import pick_device
from narrowlib.store.provenance import provenance
from narrowlib.store.records import origin, paper_record
