"""Data of a quadratic program, checked and brought into one form: ``l <= Cx <= u``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.deq.optimization.splitting import Program

Cones = Sequence[tuple[Tensor, Tensor]]


def assemble(
    Q: Tensor, q: Tensor, A: Tensor | None, b: Tensor | None, G: Tensor | None, h: Tensor | None,
    lower: Tensor | float | None, upper: Tensor | float | None, cones: Cones = (),
) -> tuple[Program, Tensor]:  # fmt: skip
    """The program in the form ``l <= Cx <= u`` in float64, and (B, M) which rows are equalities.

    Raises:
        ValueError: a shape does not fit, a right side is missing, or a number is NaN or infinite.
    """
    for given, other, names in ((A, b, "A and b"), (G, h, "G and h")):
        if (given is None) != (other is None):
            raise ValueError(f"{names} come together: give both, or neither.")
    if q.dim() not in (1, 2) or Q.dim() not in (2, 3) or Q.shape[-1] != q.shape[-1] or Q.shape[-2] != q.shape[-1]:
        raise ValueError(f"Q must be (N, N) or (B, N, N) and q (N,) or (B, N); got {tuple(Q.shape)}, {tuple(q.shape)}.")
    N = q.shape[-1]
    parts: dict[str, tuple[Tensor, int]] = {"Q": (Q, 3), "q": (q, 2)}
    for name, value, dim in (("A", A, 3), ("b", b, 2), ("G", G, 3), ("h", h, 2)):
        if value is not None:
            parts[name] = (value, dim)
    for name, bound in (("lower", lower), ("upper", upper)):
        if bound is not None:
            full = torch.as_tensor(bound, dtype=q.dtype, device=q.device)
            parts[name] = (full.expand(N) if full.dim() == 0 else full, 2)
    for i, (F, f) in enumerate(cones):
        parts[f"F of cone {i}"], parts[f"f of cone {i}"] = (F, 3), (f, 2)
    ready: dict[str, Tensor] = {}
    for name, (value, dim) in parts.items():
        infinite = name in ("h", "lower", "upper")
        # one pass over what is finite; a sum that only overflowed is looked at closely
        whole = value.sum().isfinite() or (not value.isnan().any() if infinite else value.isfinite().all())
        wrong = not bool(whole)
        if wrong:
            raise ValueError(f"{name} holds NaN{'' if infinite else ' or infinity'}; check the program's data.")
        value = value.to_dense() if value.layout is not torch.strided else value
        ready[name] = (value if value.dim() == dim else value[None]).double()
    sizes = {name: len(v) for name, v in ready.items() if len(v) != 1}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"The parts are of different batches: {sizes}; each is one sample's, or shared by all.")
    B = max([1, *sizes.values()])
    rows, low, high, equal = [], [], [], []
    eye = torch.eye(N, dtype=torch.float64, device=q.device)[None]
    for left, right, kind in (("A", "b", "equal"), ("G", "h", "below")):
        if left in ready:
            C, r = ready[left], ready[right]
            if C.shape[-1] != N or r.shape[-1] != C.shape[-2]:
                raise ValueError(
                    f"{left} must have {N} columns and {right} a number for each of its rows; got "
                    f"{tuple(C.shape)} and {tuple(r.shape)}."
                )
            rows.append(C)
            high.append(r.expand(B, -1))
            low.append(r.expand(B, -1) if kind == "equal" else torch.full_like(r, -torch.inf).expand(B, -1))
            equal.append(torch.full((B, C.shape[-2]), kind == "equal", device=q.device))
    if "lower" in ready or "upper" in ready:
        free = torch.full((1, N), torch.inf, dtype=torch.float64, device=q.device)
        below, above = ready.get("lower", -free), ready.get("upper", free)
        if below.shape[-1] != N or above.shape[-1] != N:
            raise ValueError(f"lower and upper must have {N} numbers; got {below.shape[-1]} and {above.shape[-1]}.")
        rows.append(eye)
        low.append(below.expand(B, -1))
        high.append(above.expand(B, -1))
        equal.append(torch.zeros(B, N, dtype=torch.bool, device=q.device))
    for i in range(len(cones)):
        F, f = ready[f"F of cone {i}"], ready[f"f of cone {i}"]
        if F.shape[-1] != N or f.shape[-1] != F.shape[-2] or not f.shape[-1]:
            raise ValueError(
                f"F of cone {i} must have {N} columns and f a number for each of its rows, at least one; got "
                f"{tuple(F.shape)} and {tuple(f.shape)}."
            )
        rows.append(F)
        low.append(-f.expand(B, -1))
        high.append(-f.expand(B, -1))
        equal.append(torch.zeros(B, f.shape[-1], dtype=torch.bool, device=q.device))
    each = max([1, *(len(r) for r in rows)])
    C = torch.cat([r.expand(each, -1, -1) for r in rows], 1) if rows else eye[:, :0]
    empty = ready["q"].new_zeros(B, 0)
    l, u = (torch.cat(side, 1) if side else empty for side in (low, high))  # noqa: E741
    mask = torch.cat(equal, 1) if equal else torch.zeros(B, 0, dtype=torch.bool, device=q.device)
    if bool((l > u).any()):
        bad = (l > u).any(1).nonzero().flatten().tolist()
        raise ValueError(f"lower is above upper in samples {bad[:5]}: no x satisfies the bounds.")
    sizes_of_cones = tuple(ready[f"f of cone {i}"].shape[-1] for i in range(len(cones)))
    return Program(ready["Q"], ready["q"].expand(B, -1), C, l, u, sizes_of_cones), mask


def check_convex(p: Program) -> Tensor | None:
    """Refuse a Q that is not symmetric or not positive semidefinite.

    Returns:
        its Cholesky factor (B or 1, N, N); None where a Q is not positive definite.
    """
    Q = p.Q.detach()
    scale = Q.abs().amax((1, 2)).clamp_min(1e-300)
    skew = (Q - Q.transpose(1, 2)).abs().amax((1, 2)) > 1e-6 * scale
    if bool(skew.any()):
        raise ValueError(f"Q is not symmetric in samples {skew.nonzero().flatten().tolist()[:5]}; use (Q + Q') / 2.")
    factor, info = torch.linalg.cholesky_ex(Q)
    if not bool((info > 0).any()):
        return factor
    shift = 1e-7 * scale[:, None, None] * torch.eye(Q.shape[1], dtype=Q.dtype, device=Q.device)
    _, info = torch.linalg.cholesky_ex(Q + shift)
    if bool((info > 0).any()):
        raise ValueError(
            f"Q is not positive semidefinite in samples {(info > 0).nonzero().flatten().tolist()[:5]}: the program is "
            "not convex. Add a multiple of the identity, or write Q as L L'."
        )
    return None
