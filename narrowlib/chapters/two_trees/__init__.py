"""Chapters nonlocality and group-lasso: claims N1, N2, G1 and G2 on networks that learned two trees of tasks."""
