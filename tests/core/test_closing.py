"""Closing objects."""

import pytest

from cmdcm.core.closing import Closing


class Door(Closing):
    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


def test_it_is_closed_at_the_end_even_after_an_error():
    with Door() as door:
        assert not door.closed
    assert door.closed
    with pytest.raises(KeyError, match="inside"), Door() as other:
        raise KeyError("inside")
    assert other.closed
