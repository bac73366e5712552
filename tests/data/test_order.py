import numpy as np

from moshijax.data.order import shuffled


def test_every_epoch_is_a_permutation_of_its_own():
    index = shuffled(np.arange(3 * 50), 50, seed=1, order=0)
    epochs = index.reshape(3, 50)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(50), (3, 1)))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(index, shuffled(np.arange(150), 50, seed=1, order=1))
    assert not np.array_equal(index, shuffled(np.arange(150), 50, seed=2, order=0))


def test_positions_are_independent_of_each_other():
    every = shuffled(np.arange(400), 37, seed=5, order=2)
    some = np.array([399, 36, 37, 0, 111])
    np.testing.assert_array_equal(shuffled(some, 37, seed=5, order=2), every[some])
