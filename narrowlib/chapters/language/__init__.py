"""Chapters llm-scores and llm-pruning: claims L1, L2, L4 and L5."""
