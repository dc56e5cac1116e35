"""Fixtures: the scripts in forks, with the shim; a folder with everything that they read."""

import pytest

from tests.forked import Forks, compiled
from tests.works import furnish


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    library = compiled(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("there is no C compiler, cc: no call can be made to fail, and no run be killed at a certain one")
    with Forks(library) as running:
        yield running


@pytest.fixture(scope="session")
def furnished(forks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder, forks.run)
    return folder
