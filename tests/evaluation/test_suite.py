"""The suite as a whole: what a config picks, and documents that say what there is."""

import re
import types
from pathlib import Path

import numpy as np
import pytest

from ec_jax.errors import TrainingError
from ec_jax.evaluation import suite, thresholds
from ec_jax.evaluation.features import Features

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "metrics.md").read_text()


def config(metrics="all"):
    evaluation = types.SimpleNamespace(
        metrics=metrics, neighbors=3, cka_batch_size=16, recovery_fraction=0.1
    )
    return types.SimpleNamespace(evaluation=evaluation)


def model(seed, keeps_class_2=True):
    """Features that hold the class, but class 2 only where asked for; its logits never do."""
    draw = np.random.default_rng(seed)
    splits = {}
    for name, labels in (
        ("forget_train", np.full(20, 2)),
        ("retain_train", np.arange(40) % 2),
        ("forget_test", np.full(10, 2)),
        ("retain_test", np.arange(20) % 2),
    ):
        told = labels if keeps_class_2 else np.where(labels == 2, draw.integers(0, 2, 1), labels)
        centres = 6 * np.eye(3, 5)[told]
        values = (centres + draw.normal(size=(len(labels), 5))).astype(np.float32)
        logits = values[:, :3].copy()
        logits[:, 2] = -20
        splits[name] = Features({"stage1": values, "stage2": values**2}, logits, labels)
    return splits


@pytest.fixture(scope="module")
def features():
    return {"original": model(0), "oracle": model(1, False), "unlearned": model(2)}


def test_all_metrics_of_all_models(features):
    found = suite.evaluate(features, config())
    assert found.keys() == features.keys()
    for values in found.values():
        assert values.keys() == found["oracle"].keys()
        assert all(type(v) is float and np.isfinite(v) for v in values.values())
    assert found["oracle"]["gap/logit"] == 0
    assert found["oracle"]["gap/representation"] == 0
    assert found["unlearned"]["gap/representation"] > 0.1
    assert found["oracle"]["closeness/oracle"] == pytest.approx(1)
    assert found["original"]["closeness/original"] == pytest.approx(1)
    assert found["oracle"]["agreement/forget_test"] == 100
    later = found["unlearned"]["cka_to_oracle/forget_test/stage2"]  # the last of two
    assert found["unlearned"]["closeness/oracle"] == later < 1
    assert found["unlearned"]["probe/forget_test/stage1"] > 90
    assert found["unlearned"]["misalignment/head_to_mean"] > 90


def test_metrics_are_picked(features):
    found = suite.evaluate(features, config("gap,accuracy"))["unlearned"]
    assert {key.partition("/")[0] for key in found} == {"accuracy", "gap"}


def test_without_an_oracle_what_needs_one_is_left_out(features):
    found = suite.evaluate({k: features[k] for k in ("original", "unlearned")}, config())
    keys = found["unlearned"].keys()
    assert not [key for key in keys if "oracle" in key or key.startswith("gap/")]
    assert "cka_to_original/forget_test/stage2" in keys


def test_a_number_that_is_not_finite_stops_the_evaluation(features):
    bad = model(2)
    bad["retain_test"].points["stage2"][0, 0] = np.nan
    with pytest.raises(TrainingError, match=r"retain_test/stage2 of the unlearned model is nan"):
        suite.evaluate({**features, "unlearned": bad}, config())


def test_an_oracle_that_is_not_finite_is_named_and_not_who_is_compared_with_it(features):
    bad = model(1)
    bad["retain_test"].logits[0, 0] = np.nan
    with pytest.raises(TrainingError, match=r"accuracy/retain_test of the oracle model is nan"):
        suite.evaluate({**features, "oracle": bad}, config())


def test_every_metric_is_documented(features):
    for name in suite.chosen("all"):
        assert f"| `{name}` |" in DOCUMENT
    for key in suite.evaluate(features, config())["unlearned"]:
        name = key.partition("/")[0].removesuffix("original").removesuffix("oracle")
        assert f"`{name}" in DOCUMENT, key


def test_every_threshold_is_documented():
    for limit in thresholds.THRESHOLDS:
        assert f"| `{limit.name}` | {limit.value:g} | {limit.unit} |" in DOCUMENT
    # No row too many: what is gone from the code is gone from the page.
    assert len(re.findall(r"^\| `", DOCUMENT, re.M)) == len(suite.chosen("all")) + len(
        thresholds.THRESHOLDS
    )
