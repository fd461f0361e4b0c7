"""Figures of the chapters on language models."""
