from __future__ import annotations

import pytest

from tests.objectives.cases import special_store


@pytest.fixture(scope="session", name="special_store")
def _special_store(tmp_path_factory):
    return special_store(tmp_path_factory.mktemp("special"))
