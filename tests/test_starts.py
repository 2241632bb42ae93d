"""The 2×2 table of starts."""

import pytest
import torch

import pursuitnet as pn

TABLE = {"zero": (False, False), "resnet": (True, False), "res_csc_simplified": (False, True), "res_csc": (True, True)}


@pytest.mark.parametrize("name", TABLE)
def test_previous_takes_the_places_that_the_table_gives_it(name):
    start, previous = getattr(pn, name), torch.zeros(2, 3)
    assert start.name == name
    assert start.needs_previous == any(TABLE[name])
    for place, taken in zip(start(previous), TABLE[name], strict=True):
        assert place is (previous if taken else None)


@pytest.mark.parametrize("name", [name for name, places in TABLE.items() if any(places)])
def test_a_missing_previous_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"'{name}'.*previous is None.*previous=…"):
        getattr(pn, name)(None)


def test_zero_needs_no_previous():
    assert pn.zero(None) == (None, None)
