"""Runs for the tests of comparisons: published numbers, in folders as a run leaves them."""

import copy
import json

from command import ROOT, changed

from configs import digits
from ec_jax import workdir

RESULTS = ROOT / "docs" / "results"
DIGITS = [RESULTS / "digits" / f"ec-seed{seed}.json" for seed in range(3)]
# Of another scenario, and measured before some of the numbers existed.
FASHION = [ROOT / "tests" / "data" / f"fashion_mnist_ec-seed{seed}.json" for seed in range(3)]


def metrics(seed=0, *, scenario=None, unlearned=None, method="ec"):
    """The published numbers of a digits run, with other fields and numbers in places."""
    found = copy.deepcopy(json.loads(DIGITS[seed].read_text()))
    del found["config"]
    found["scenario"] |= {"method": method, **(scenario or {})}
    found["models"]["unlearned"] |= unlearned or {}
    return found


def put_alone(folder, found):
    """A run's numbers without its config, in a file of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"numbers-seed{found['scenario']['seed']}.json"
    path.write_text(json.dumps(found))
    return str(path)


def put(folder, found, **fields):
    """A run's folder; ``fields`` are those of its config that are not the digits config's."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(found))
    about = {"seed": found["scenario"]["seed"], "method": found["scenario"]["method"]}
    workdir.write_resolved(changed(digits.get_config(), **{**about, **fields}), folder)
    return str(folder)
