"""A pytest plugin that keeps the collector of garbage away from what lives as long as the worker.

A worker that has collected all tests has millions of objects, and each full collection would visit them.
"""

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
