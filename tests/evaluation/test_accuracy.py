import numpy as np

from ec_jax.evaluation import accuracy
from ec_jax.evaluation.features import Context, Features


def _split(logits, labels):
    return Features({}, np.asarray(logits, np.float32), np.asarray(labels, np.int32))


def test_percent_of_each_split_that_has_examples():
    features = {
        "forget_test": _split([[0, 1, 0], [2, 1, 0], [0, 0, 5], [0, 3, 0]], [1, 1, 2, 0]),
        "retain_test": _split([[1, 0, 0]], [0]),
        "retain_train": _split([[1, 0, 0]], [1]),
        "forget_train": _split(np.zeros((0, 3)), []),
    }
    got = accuracy.run(features, Context(None, {}))
    assert got == {
        "accuracy/forget_test": 50.0,
        "accuracy/retain_test": 100.0,
        "accuracy/retain_train": 0.0,
    }
    assert all(type(v) is float for v in got.values())


def test_equal_logits_count_for_the_smallest_class():
    features = {"s": _split([[1, 1], [1, 1]], [0, 1])}
    assert accuracy.run(features, Context(None, {})) == {"accuracy/s": 50.0}


def test_a_model_of_nan_has_no_accuracy():
    # argmax would name class 0, and the model would seem to have forgotten the others.
    features = {"s": _split([[np.nan, np.nan], [0, 1]], [1, 1])}
    assert np.isnan(accuracy.run(features, Context(None, {}))["accuracy/s"])


def test_masked_logits_are_allowed():
    features = {"s": _split([[-np.inf, 0.0]], [1])}
    assert accuracy.run(features, Context(None, {})) == {"accuracy/s": 100.0}
