import numpy as np

from moshijax.data.order import Purpose, Stream, shuffled


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


def test_every_purpose_has_random_numbers_of_its_own():
    drawn = [Stream(3, 1, 2, purpose).generator(0).integers(1 << 32) for purpose in Purpose]
    assert len(set(drawn)) == len(Purpose)
    assert len(set(Purpose.__members__.values())) == len(Purpose.__members__)  # No second names.


def test_the_numbers_of_each_purpose_never_change():
    drawn = {p.name: int(Stream(3, 1, 2, p).generator(0).integers(1 << 32)) for p in Purpose}
    assert drawn == {
        "STUDENT_VIEW": 2747245750,
        "TEACHER_VIEW": 3629698900,
        "MIX": 3551652974,
        "EVALUATION_VIEW": 2078852149,
        "SHUFFLE": 853483983,
        "CUT": 2949572845,
        "MADE": 2324545750,
    }
