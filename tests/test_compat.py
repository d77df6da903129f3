"""The private touches of other packages still find what they touch; a failure says what an upgrade broke."""

from __future__ import annotations

import zoo._compat


def test_every_touch_says_what_it_was_tried_on():
    assert "Tried on:" in (zoo._compat.__doc__ or "")
