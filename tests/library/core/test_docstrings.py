"""Examples in docstrings are run, and public names have docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import narrowlib

MODULES = [module.name for module in pkgutil.walk_packages(narrowlib.__path__, "narrowlib.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
