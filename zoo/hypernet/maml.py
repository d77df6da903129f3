"""Learning to learn with one equation: iMAML and MAML.

A task has a support set to learn from. Its weights ``w`` start at ``theta``, which all tasks share, and minimise

    E(w) = L_support(w) + prior / 2 |w - theta|^2        by        w = w - step dE/dw ,

a fixed point that `zoo.fixed_point` solves, one state a task. *iMAML* takes the gradient of the query loss across it
by the implicit function theorem, ``dw*/dtheta = (I + H / prior)^-1`` with the Hessian ``H`` of the support loss: the
matrix is symmetric, so conjugate gradients solve it, and no inner step is kept. *MAML* is the same map with a prior of
0, a few steps, and the adjoint ``unroll``; its first-order form takes dL/dw as a constant.

References: Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017;
Rajeswaran, Finn, Kakade, Levine, "Meta-learning with implicit gradients", NeurIPS 2019, arXiv:1909.04630.

What differs from the papers: the last layer starts at 0, as any start that all classes share does the same (a common
shift of the logits changes no softmax; Ye and Chao, "How to train your MAML to excel in few-shot classification", ICLR
2022), so that the order of the classes has no say and the number of ways is free; and group normalization by default,
where the papers normalize over the query set (``norm: batch`` does as they do).

Shape letters: M tasks, N ways, S support images and Q query images of a task, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad

from zoo.hypernet.target import HyperTarget
from zoo.implicit import ImplicitMixin
from zoo.layers.autocast import vmap
from zoo.layers.conv4 import Conv4
from zoo.layers.fewshot_checks import check_episode

Weights = tuple[Tensor, ...]


def descent(
    loss: Callable[..., Tensor], theta: Weights, *, step: float | Tensor, prior: float, first_order: bool = False
) -> Callable[..., Weights]:
    """Return the gradient map of ``E(w) = loss(w, ...) + prior / 2 |w - theta|^2``, whose fixed points are E's minima.

    Args:
        loss: of weights (M, ...) and per-task arguments; summed over tasks, so that each task's gradient is its own.
        theta: the start, shared by all tasks, without their axis; gradients go to it.
        step: of the descent. It contracts where ``step (h + prior) < 2`` for every eigenvalue ``h`` of the Hessian,
            which must be above ``-prior``.
        prior: strength of the pull towards the start.
        first_order: take the gradient of the loss as a constant of the outer problem.
    """

    def f(w: Weights, *args: Tensor) -> Weights:
        slope = grad(loss)(w, *args)
        if first_order:
            slope = tuple(s.detach() for s in slope)
        return tuple(v - step * (s + prior * (v - t)) for v, s, t in zip(w, slope, theta, strict=True))

    return f


class MetaLearner(ImplicitMixin, nn.Module):
    """A classifier that learns each task by a solve, and the start of that solve by gradients.

    The solver says how the inner problem is minimized (``picard`` is gradient descent), the adjoint how the outer
    gradient crosses it: ``implicit`` for iMAML, ``unroll`` for MAML.

    Args:
        in_chans: channels of the images.
        channels: of every convolution, and the width of the feature.
        downsample: how many of the four convolutions halve the image.
        norm: ``group``, or ``batch`` by the statistics of the images given together (transductive).
        adapt: ``all`` weights, or the ``head`` alone, on features that all tasks share, scaled to a mean square of 1.
            The inner problem is convex then, and the query's logits have a learned scale.
        step: of the gradient map. None, for the head alone: what contracts for sure, ``1 / (D / 2 + 1 / 2 + prior)``,
            as the Hessian of a softmax is at most half of ``|f|^2 + 1`` (the bias counts as one more feature).
        prior: strength of the pull towards the start, lambda in the paper; 0: none.
        first_order: leave the second derivative out of an unrolled gradient.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        in_chans: int = 1,
        channels: int = 64,
        downsample: int = 4,
        norm: Literal["group", "batch"] = "group",
        adapt: Literal["all", "head"] = "all",
        step: float | None = 0.1,
        prior: float = 2.0,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        if adapt not in ("all", "head"):
            raise ValueError(f"A MetaLearner adapts 'all' or 'head'; got {adapt!r}.")
        if step is None and adapt == "head":
            step = 1.0 / (0.5 * channels + 0.5 + prior)
        if step is None or not step > 0 or not prior >= 0:
            raise ValueError(f"A MetaLearner needs step above 0 and prior of at least 0; got {step} and {prior}.")
        self.in_chans, self.adapt, self.step, self.prior = in_chans, adapt, step, prior
        self.first_order = first_order
        body = Conv4(in_chans, channels, downsample, norm)
        self.body = HyperTarget(body) if adapt == "all" else body
        begin = self.body.initial.values() if isinstance(self.body, HyperTarget) else ()
        self.start = nn.ParameterList([nn.Parameter(v.clone()) for v in begin])
        self.width = channels
        # of the query's logits; a strong prior makes them small, so that they start larger
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0))) if adapt == "head" else None

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Classify query images (M, Q, C, H, W), (M, Q, N), by a support set (M, S, ...) with labels (M, S).

        Labels count from 0, and every class occurs in the support of every task.

        Raises:
            ValueError: see `zoo.layers.fewshot_checks.check_episode`.
        """
        ways = check_episode(support_x, support_y, query_x, self.in_chans)
        recording = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(recording):
            # to learn a task takes gradients, in evaluation too, which tensors made for inference do not allow
            if support_x.is_inference():
                support_x, support_y, query_x = support_x.clone(), support_y.clone(), query_x.clone()
            tasks = len(support_x)
            theta = (*self.start, support_x.new_zeros(ways, self.width), support_x.new_zeros(ways))
            w0 = tuple(v.expand(tasks, *v.shape) for v in theta)
            seen, asked = support_x, query_x
            if self.adapt == "head":  # one pass for both, so that batch statistics are the same
                features = vmap(self.body, support_x.device.type)(torch.cat([support_x, query_x], 1))
                features = F.rms_norm(features, features.shape[-1:])
                seen, asked = features.split([support_x.shape[1], query_x.shape[1]], 1)

            f = descent(self._loss, theta, step=self.step, prior=self.prior, first_order=self.first_order)
            w = self.solve(f, w0, args=(seen, support_y))
            logits = self._logits(w, asked)
            return logits if self.log_scale is None else logits * self.log_scale.exp()

    def _logits(self, w: Weights, x: Tensor) -> Tensor:
        """(M, n, N) of images, or of features where the head alone is adapted."""
        *body, weight, bias = w
        if self.adapt == "all":
            names = (s.name for s in self.body.spec)  # type: ignore[union-attr]
            x = self.body(dict(zip(names, body, strict=True)), x, batched=True)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    def _loss(self, w: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Summed over tasks, so that each task's gradient is its own; within a task the mean."""
        logits = self._logits(w, x)
        return F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
