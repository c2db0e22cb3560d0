import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ec_jax.evaluation import agreement
from ec_jax.evaluation.features import Context, Features


def part(logits, labels=None):
    labels = np.zeros(len(logits)) if labels is None else labels
    return Features({}, np.asarray(logits, np.float32), np.asarray(labels, np.int32))


def run(model, oracle):
    return agreement.run(model, Context(None, {"oracle": oracle}))


def by_loop(a, b):
    """Percent of rows of which the first largest entry is in the same place."""
    same = 0
    for row, other in zip(a, b, strict=True):
        best = [0, 0]
        for which, values in enumerate((row, other)):
            for c, value in enumerate(values):
                if value > values[best[which]]:
                    best[which] = c
        same += best[0] == best[1]
    return 100 * same / len(a)


# Few values, so that equal ones are frequent.
logits = arrays.arrays(np.float32, (7, 4), elements=st.sampled_from([-np.inf, -1.0, 0.0, 2.0]))


def test_by_hand():
    model = {"s": part([[0, 1, 0], [2, 1, 0], [0, 0, 5], [0, 3, 0]], [1, 1, 1, 1])}
    oracle = {"s": part([[0, 9, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], [1, 1, 1, 1])}
    got = run(model, oracle)
    assert got == {"agreement/s": 50.0}
    assert type(got["agreement/s"]) is float


@given(logits, logits)
def test_is_that_of_a_loop_and_the_same_from_both_sides(a, b):
    got = run({"s": part(a)}, {"s": part(b)})
    assert got == {"agreement/s": pytest.approx(by_loop(a, b))}
    assert got == run({"s": part(b)}, {"s": part(a)})


@given(logits, st.integers(0, 3))
def test_the_oracle_agrees_with_itself_and_labels_do_not_count(a, label):
    assert run({"s": part(a, np.full(7, label))}, {"s": part(a)}) == {"agreement/s": 100.0}


@given(logits, logits, logits)
def test_disagreement_is_a_distance(a, b, c):
    apart = [
        100 - run({"s": part(x)}, {"s": part(y)})["agreement/s"]
        for x, y in ((a, b), (b, c), (a, c))
    ]
    assert apart[2] <= apart[0] + apart[1] + 1e-9


def test_splits_without_images_and_without_an_oracle_are_left_out():
    model = {"forget_test": part(np.zeros((0, 3))), "retain_test": part([[1, 0, 0]])}
    assert run(model, model) == {"agreement/retain_test": 100.0}
    assert run(model, {"forget_test": model["forget_test"]}) == {}
    assert agreement.run(model, Context(None, {})) == {}
    assert agreement.run(model, Context(None, {"original": model})) == {}


def test_a_model_of_nan_agrees_with_nobody():
    # argmax would name class 0, for which the other may well take the image.
    good, bad = {"s": part([[1, 0], [0, 1]])}, {"s": part([[np.nan, 0], [0, 1]])}
    assert np.isnan(run(bad, good)["agreement/s"])
    assert np.isnan(run(good, bad)["agreement/s"])
