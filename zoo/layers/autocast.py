"""`torch.func.vmap` that honors autocast.

Torch's own takes operations apart before autocast sees them. On a CPU a convolution within it stays in float32, or
fails where its weight is narrower than its bias; a linear layer stays in float32 without a word. Here the arguments of
an operation are cast before vmap sees it, by the lists of operations that torch documents:
https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NARROW = _names(
    "conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d linear matmul mm bmm addmm "
    "addbmm baddbmm einsum tensordot inner linalg_multi_dot linalg_vecdot chain_matmul prelu "
    "scaled_dot_product_attention multi_head_attention_forward"
)
_NARROW_CUDA = _NARROW | _names("addmv addr mv")
_WIDE = _names(
    "avg_pool3d binary_cross_entropy binary_cross_entropy_with_logits cdist cosine_embedding_loss cross_entropy "
    "ctc_loss grid_sample grid_sampler hinge_embedding_loss huber_loss kl_div l1_loss linalg_inv margin_ranking_loss "
    "mse_loss multi_margin_loss multilabel_margin_loss nll_loss pdist poisson_nll_loss prod renorm smooth_l1_loss "
    "soft_margin_loss triplet_margin_loss"
)
_WIDE_CUDA = (_WIDE - _names("avg_pool3d grid_sample grid_sampler huber_loss linalg_inv")) | _names(
    "__pow__ __rpow__ __rdiv__ __rtruediv__ acos asin cosh cosine_similarity cumprod cumsum dist erfinv exp expm1 "
    "group_norm layer_norm log log10 log1p log2 log_softmax norm normalize pow reciprocal rsqrt sinh softmax softmin "
    "softplus sum tan"
)
_LIKE_INPUT = _names("batch_norm instance_norm group_norm layer_norm")  # computed wide
_CAST = (torch.float16, torch.bfloat16, torch.float32)  # autocast leaves float64 alone


def vmap(function: Callable[..., Any], device: str, **options: Any) -> Callable[..., Any]:
    """Return ``torch.func.vmap(function, **options)`` with the operations of ``function`` autocast on ``device``.

    The answer has the dtypes that a loop over the samples gives, in the forward pass and for gradients.

    Args:
        function: of tensors without the mapped axis.
        device: type of the device that the tensors lie on, such as ``cpu``.
        **options: of `torch.func.vmap`.
    """
    if not torch.is_autocast_enabled(device):
        return torch.func.vmap(function, **options)

    def cast(*inputs: Any) -> Any:
        with _Autocast(device):
            return function(*inputs)

    return torch.func.vmap(cast, **options)


class _Autocast(TorchFunctionMode):
    """Casts the arguments of each operation as autocast would, before anything takes the operation apart."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.narrow, self.wide = (_NARROW_CUDA, _WIDE_CUDA) if device == "cuda" else (_NARROW, _WIDE)
        self.known = self.narrow | self.wide | _LIKE_INPUT

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, named = getattr(func, "__name__", ""), kwargs or {}
        if name not in self.known or not torch.is_autocast_enabled(self.device):
            return func(*args, **named)
        dtype = torch.get_autocast_dtype(self.device) if name in self.narrow else torch.float32
        out = func(*self._cast(args, dtype), **{k: self._cast(v, dtype) for k, v in named.items()})
        return out.to(args[0].dtype) if name in _LIKE_INPUT and name not in self.wide and args else out

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return type(value)([self._cast(v, dtype) for v in value])
        if isinstance(value, Tensor) and value.device.type == self.device and value.dtype in _CAST:
            return value.to(dtype)
        return value
