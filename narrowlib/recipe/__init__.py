"""Narrow a model of your own: from documents to a smaller checkpoint, in resumable steps.

`narrowlib.recipe.narrowing.narrow` is the function; the command ``narrow`` takes the same settings as flags.
"""
