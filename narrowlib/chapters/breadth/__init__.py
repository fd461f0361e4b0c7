"""Chapter breadth, beyond the paper: what a composite task is learned beside, and how much of it."""

from narrowlib.chapters.breadth.config import Config
from narrowlib.chapters.breadth.experiment import tables, times_to_learn
