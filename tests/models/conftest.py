"""Tests marked slow run if they are asked for: ``pytest -m slow tests/models``."""

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes seconds; runs only with -m slow")


def pytest_collection_modifyitems(config, items):
    if config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))
