"""The explicit twin of `zoo.deq.constrained_net`: the same perceptron, its constraints a penalty in the loss."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.layers.quadratic import QuadraticFamily, perceptron


class PenaltyNet(nn.Module):
    """From x (B, features) to y (B, variables), ``A^+ x + g(x)``; the equalities hold where ``completed``.

    Args:
        features, variables, inequalities, convex, hidden: as `ConstrainedNet` has them.
        completed: take the part of ``g(x)`` out that leaves the equalities, ``(I - A^+ A) g(x)``.
    """

    def __init__(
        self,
        features: int = 50,
        variables: int = 100,
        inequalities: int = 50,
        convex: bool = True,
        hidden: tuple[int, ...] = (200, 200),
        completed: bool = False,
    ) -> None:
        super().__init__()
        self.features, self.completed = features, completed
        self.family = QuadraticFamily(variables, features, inequalities, convex)
        self.net = perceptron((features, *hidden, variables))

    def forward(self, x: Tensor) -> Tensor:
        f, g = self.family, self.net(x)
        if self.completed:
            g = g - f.guess(g @ f.A.to(g).T)
        return f.guess(x) + g
