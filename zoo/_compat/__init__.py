"""Private touches of other packages, all of them, a file a package, each with the versions it was tried on.

Nothing else in zoo reads a name that another package keeps for itself (a leading underscore, or an attribute that its
documentation does not promise). When an upgrade breaks one of these, ``tests/test_compat.py`` says which, and what to
do. Imports nothing that its caller has not imported already, so that each room keeps its place in the one-way order.

Tried on: torch 2.14.1, lightning 2.6.6, jsonargparse 4.53, torchdiffeq 0.2.5.
"""

from zoo._compat.jsonargparse import (
    allowed_imports,
    parser_error,
    parser_options,
    unserializable_allowed,
)
from zoo._compat.lightning import (
    data_module,
    epoch_means,
    fit_position,
    restore_epoch_means,
    sampler_ranks,
    twin,
    validate_again,
)
from zoo._compat.torch import (
    allow_variants,
    compiled_call,
    eager_call,
    forward_mode_is_on,
    has_power_iteration,
    has_running_statistics,
    inside_transform,
    opaque,
    profiler_is_on,
    pytree,
    refused_by_vmap,
    refuses_saved_tensor_hooks,
    set_compiled_call,
    set_reduction,
    state_without_parametrizations,
    under_transform,
    will_execute,
)
from zoo._compat.torchdiffeq import (
    torchdiffeq_callbacks,
    torchdiffeq_failure,
    torchdiffeq_methods,
)

__all__ = [
    "allow_variants",
    "allowed_imports",
    "compiled_call",
    "data_module",
    "eager_call",
    "epoch_means",
    "fit_position",
    "forward_mode_is_on",
    "has_power_iteration",
    "has_running_statistics",
    "inside_transform",
    "opaque",
    "parser_error",
    "parser_options",
    "profiler_is_on",
    "pytree",
    "refused_by_vmap",
    "refuses_saved_tensor_hooks",
    "restore_epoch_means",
    "sampler_ranks",
    "set_compiled_call",
    "set_reduction",
    "state_without_parametrizations",
    "torchdiffeq_callbacks",
    "torchdiffeq_failure",
    "torchdiffeq_methods",
    "twin",
    "under_transform",
    "unserializable_allowed",
    "validate_again",
    "will_execute",
]
