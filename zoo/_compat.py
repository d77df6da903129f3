"""Private touches of other packages, all of them, each with the versions it was tried on.

Nothing else in zoo reads a name that another package keeps for itself (a leading underscore, or an attribute that its
documentation does not promise). When an upgrade breaks one of these, ``tests/test_compat.py`` says which, and what to
do. Imports nothing that its caller has not imported already, so that each room keeps its place in the one-way order.

Tried on: torch 2.14.1, lightning 2.6.6, jsonargparse 4.53, torchdiffeq 0.2.5, timm 1.0.31.
"""

from __future__ import annotations
