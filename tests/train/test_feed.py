import pytest

from moshijax.system.errors import UserError
from moshijax.train.feed import read_ahead


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_come_in_order(depth):
    assert list(read_ahead(lambda step: step * 10, 2, 6, depth)) == [20, 30, 40, 50, 60]


def test_without_reading_ahead_a_batch_is_made_when_it_is_asked_for():
    made = []
    batches = read_ahead(lambda step: made.append(step) or step, 1, 9, 0)
    next(batches)
    assert made == [1]
    next(batches)
    assert made == [1, 2]


@pytest.mark.parametrize("depth", [0, 2])
def test_what_a_file_holds_wrong_is_said_as_it_is(depth):
    def damaged(step):
        raise UserError(f"record {step} is damaged")

    with pytest.raises(UserError, match=r"^record 4 is damaged"):
        next(read_ahead(damaged, 4, 5, depth))
