"""The small library under the executable companion to "On the creation of narrow AI"."""

__version__ = "0.1.0"
