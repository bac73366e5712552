import jax.numpy as jnp
import numpy as np

from moshijax.lm.delays import delay, targets, undelay


CODES = jnp.arange(2 * 3 * 6).reshape(2, 3, 6)
DELAYS, INITIAL = (0, 2, 1), (90, 91, 92)


def test_streams_move_later_behind_their_initial_code():
    moved = np.asarray(delay(CODES, DELAYS, INITIAL))
    np.testing.assert_array_equal(moved[0, 0], [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(moved[0, 1], [91, 91, 6, 7, 8, 9])
    np.testing.assert_array_equal(moved[1, 2], [92, 30, 31, 32, 33, 34])


def test_undelay_undoes_delay_where_the_mask_says():
    back, mask = undelay(delay(CODES, DELAYS, INITIAL), DELAYS)
    assert mask.sum(1).tolist() == [6, 4, 5]
    np.testing.assert_array_equal(np.where(mask, back, -5), np.where(mask, CODES, -5))
    assert (np.asarray(back)[:, ~np.asarray(mask)] == 0).all()


def test_a_frame_reads_what_the_one_before_it_predicts():
    codes = CODES.at[0, 0, 3].set(-1)
    read, predicted, mask = targets(codes, DELAYS, INITIAL)
    np.testing.assert_array_equal(read[:, :, 0], np.tile(INITIAL, (2, 1)))
    np.testing.assert_array_equal(read[:, :, 1:], predicted[:, :, :-1])
    want = np.ones((2, 3, 6), bool)
    want[:, 1, :2] = want[:, 2, :1] = want[0, 0, 3] = False
    np.testing.assert_array_equal(mask, want)
