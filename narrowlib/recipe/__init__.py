"""Narrow a model of your own: from documents to a smaller checkpoint, in steps that a kill does not lose.

`narrowlib.recipe.narrowing` is the function, the command ``narrow`` its other face.
"""
