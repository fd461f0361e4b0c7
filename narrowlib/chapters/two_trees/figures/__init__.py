"""Figures of the chapters nonlocality and group-lasso."""
