"""One small run that the tests of this folder read."""

import pytest
from small_run import small

from ec_jax.pipeline import Experiment


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """What a run leaves; nobody writes into it."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    Experiment(small(), folder).run()
    return folder
