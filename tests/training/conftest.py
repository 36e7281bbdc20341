from __future__ import annotations

import gc

import pytest

from tests.objectives.cases import special_store


@pytest.fixture(scope="session", name="special_store")
def _special_store(tmp_path_factory):
    return special_store(tmp_path_factory.mktemp("special"))


@pytest.fixture
def tasks_dropped_here():
    """Collects the tasks that Orbax drops when one of them fails, before another test begins that
    does not expect it. The module ignores pytest's PytestUnraisableExceptionWarning as well."""
    yield
    gc.collect()
