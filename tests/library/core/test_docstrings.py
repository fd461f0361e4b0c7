"""Examples in docstrings are run, and public names have docstrings."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import narrowlib

MODULES = [module.name for module in pkgutil.walk_packages(narrowlib.__path__, "narrowlib.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    public = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    }
    assert module.__doc__ and all(inspect.getdoc(value) for value in public.values())
