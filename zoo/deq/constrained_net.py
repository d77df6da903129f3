"""A network whose last layer is a projection: its answers obey the constraints, whatever its weights.

    y = argmin_z |z - (A^+ x + g(x))|   subject to   Az = x,  Gz <= h

``g`` is a perceptron, trained on the objective alone: no penalty, no multiplier, no step of correction. The projection
is a fixed point (`zoo.deq.optimization`), and its gradient the implicit one.

Reference: Donti, Rolnick and Kolter, "DC3: a learning method for optimization with hard constraints", ICLR 2021, for
the problems; the projection takes the place of its completion and correction. Grontas, Terpin et al., "Pi-net:
optimizing hard-constrained neural networks with orthogonal projection layers", 2025, https://arxiv.org/abs/2508.10480.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.deq.optimization.projection import Projection
from zoo.implicit import DelegatesImplicit
from zoo.layers.quadratic import QuadraticFamily, perceptron


class ConstrainedNet(DelegatesImplicit, nn.Module):
    """From x (B, features) to y (B, variables) in float64, feasible.

    Args:
        features: equalities of the family, numbers of x.
        variables, inequalities, convex: of the family, see `QuadraticFamily`.
        hidden: widths of the perceptron.
        rounds: of the projection, see `zoo.deq.optimization.QP`.
    """

    def __init__(
        self,
        features: int = 50,
        variables: int = 100,
        inequalities: int = 50,
        convex: bool = True,
        hidden: tuple[int, ...] = (200, 200),
        rounds: int = 20,
    ) -> None:
        super().__init__()
        self.features = features
        self.family = QuadraticFamily(variables, features, inequalities, convex)
        self.net = perceptron((features, *hidden, variables))
        self.projection = Projection(rounds=rounds)

    def forward(self, x: Tensor) -> Tensor:
        f = self.family
        return self.projection((f.guess(x) + self.net(x)).double(), A=f.A, b=x, G=f.G, h=f.h)  # feasible to 1e-9
