"""An equilibrium layer in a LightningModule of your own: z = tanh(W z + U x), solved by Anderson's method."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.deq import DEQ


class Cell(nn.Module):
    """One step of the equation; any module that takes the state and the input will do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Linear(width, width)
        nn.init.normal_(self.w.weight, std=0.3 / width**0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.w(z) + x)


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.inject, self.out = nn.Linear(2, 16), nn.Linear(16, 2)
        self.layer = DEQ(Cell(16), solver={"name": "anderson", "rtol": 1e-4}, adjoint="implicit")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(self.inject(x)))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.02)


torch.manual_seed(0)
x = torch.randn(512, 2)
y = (x[:, 0] * x[:, 1] > 0).long()  # which no straight line tells apart
net = Net()
trainer = L.Trainer(max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
trainer.fit(net, DataLoader(TensorDataset(x, y), 32, shuffle=True))
accuracy = float((net.eval()(x).argmax(1) == y).float().mean())
stats = net.layer.last.stats
print(
    f"accuracy {accuracy:.0%}; {stats.nfe} evaluations, {stats.converged.float().mean():.0%} of the samples converged"
)
