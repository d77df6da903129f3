"""The residual as a sign of a right answer: the area and the share by their definitions, and where a test logs them."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.callbacks.trust import ResidualTrust, TrustMonitor, answered_share, roc_area
from zoo.implicit import ImplicitMixin
from zoo.tasks.classification import Classification


def drawn(seed, samples=60, levels=12):
    """Residuals of few values, so that there are ties, from 1e-9 up; a right answer is likelier with a small one."""
    random = torch.Generator().manual_seed(seed)
    level = torch.randint(levels, (samples,), generator=random)
    right = torch.rand(samples, generator=random) > level / levels
    return 1e-9 * 2.0**level, right


@pytest.mark.parametrize("seed", range(4))
def test_the_area_is_the_share_of_pairs_in_order(seed):
    residual, right = drawn(seed)
    good, bad = residual[right][:, None], residual[~right]
    pairs = (good < bad).double() + 0.5 * (good == bad).double()
    assert float(roc_area(residual, right)) == pytest.approx(float(pairs.mean()), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("precision", [0.5, 0.9, 0.99])
def test_the_share_is_the_largest_over_all_bounds(seed, precision):
    residual, right = drawn(seed)
    shares = [float((residual <= bound).double().mean()) for bound in residual.unique()
              if float(right[residual <= bound].double().mean()) >= precision]  # fmt: skip
    assert float(answered_share(residual, right, precision)) == pytest.approx(max(shares, default=0.0))


def test_a_lost_sample_comes_last():
    residual, right = torch.tensor([1.0, float("nan"), 2.0]), torch.tensor([True, False, True])
    assert float(roc_area(residual, right)) == 1
    assert float(answered_share(residual, right)) == pytest.approx(2 / 3)


def test_without_wrong_answers_there_is_no_area():
    trust = ResidualTrust()
    trust.update(torch.tensor([1.0, 2.0]), torch.tensor([True, True]))
    assert {k: float(v) for k, v in trust.compute().items()} == {"answered_at_99": 1.0}


def test_batches_are_joined():
    residual, right = drawn(0)
    whole, parts = ResidualTrust(), ResidualTrust()
    whole.update(residual, right)
    for i in range(0, 60, 25):
        parts.update(residual[i : i + 25], right[i : i + 25])
    assert whole.compute() == parts.compute()


class Halving(ImplicitMixin, nn.Module):
    """z = z / 2 + x, at most three steps: the residual of a sample grows with the distance of its start."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.configure_implicit({"name": "picard", "rtol": 1e-9, "max_steps": 3}, "implicit")

    def forward(self, x):
        z = self.solve(lambda z: 0.5 * z + 1, self.weight * x)  # the answer is 2 for every sample
        return torch.cat([torch.zeros_like(z), z - 3], 1)


def test_a_test_logs_it_for_fixed_points_alone():
    x = torch.tensor([[2.5], [3.0], [50.0], [90.0]])  # the last two are still above 3 after three steps
    data = DataLoader(TensorDataset(x, torch.zeros(4, dtype=torch.long)), batch_size=2)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }

    def found(model):
        trainer = Trainer(accelerator="cpu", callbacks=[TrustMonitor()], **quiet)
        return trainer.test(Classification(model), data, verbose=False)[0]

    solved = found(Halving())
    assert solved["test/accuracy"] == solved["test/answered_at_99"] == 0.5 and solved["test/residual_auroc"] == 1
    linear = nn.Linear(1, 2)
    linear.num_classes = 2
    assert not {"test/answered_at_99", "test/residual_auroc"} & set(found(linear))
