"""The order of the data is a pure function of seed, name and step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec_jax.data.loader import Stream

COUNTS = st.integers(1, 40)
BATCHES = st.integers(1, 100)
SEEDS = st.integers(0, 2**31)


def take(stream, count):
    """The first ``count`` examples of a stream read step by step."""
    batches = []
    while sum(map(len, batches)) < count:
        batches.append(stream.batch_indices(len(batches)))
    return np.concatenate(batches)[:count]


@settings(deadline=None)
@given(COUNTS, BATCHES, SEEDS)
def test_every_epoch_visits_each_index_once(count, batch, seed):
    indices = np.arange(count) * 3 + 100
    drawn = take(Stream(indices, batch, seed, "s"), 4 * count).reshape(4, count)
    np.testing.assert_array_equal(np.sort(drawn, 1), np.tile(indices, (4, 1)))


@settings(deadline=None)
@given(COUNTS, BATCHES, SEEDS, st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_a_step_does_not_depend_on_what_was_asked_before(count, batch, seed, steps):
    used = Stream(range(count), batch, seed, "s")
    for step in steps:
        fresh = Stream(range(count), batch, seed, "s")
        got = used.batch_indices(step)
        assert got.shape == (batch,)
        np.testing.assert_array_equal(got, fresh.batch_indices(step))


def test_a_batch_larger_than_the_set_spans_whole_epochs():
    batch = Stream(range(3), 8, 0, "s").batch_indices(0)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]
    assert len(set(batch[6:])) == 2


def test_epochs_seeds_and_names_have_orders_of_their_own():
    first = Stream(range(50), 50, 0, "a")
    orders = [
        first.batch_indices(0),
        first.batch_indices(1),
        Stream(range(50), 50, 1, "a").batch_indices(0),
        Stream(range(50), 50, 0, "b").batch_indices(0),
    ]
    assert len({tuple(o) for o in orders}) == len(orders)


def test_far_steps_are_reached_at_once():
    assert Stream(range(7), 5, 0, "s").batch_indices(10**9).shape == (5,)


def test_the_caller_cannot_spoil_later_batches():
    stream = Stream(range(5), 5, 0, "s")
    before = stream.batch_indices(0)
    stream.batch_indices(0)[:] = -1
    np.testing.assert_array_equal(stream.batch_indices(0), before)


def test_an_empty_stream_is_refused():
    with pytest.raises(ValueError, match="retain_train is empty"):
        Stream([], 4, 0, "retain_train")


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size = 0 of the stream forget_train"):
        Stream(range(3), 0, 0, "forget_train")
