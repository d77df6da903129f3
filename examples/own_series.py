"""Forecast irregular series out of a CSV file: a row is a series' name, a time, and what was seen then."""

import tempfile
from pathlib import Path

import numpy as np

import zoo

TABLE = Path(tempfile.mkdtemp()) / "waves.csv"  # yours: id,time,... with an empty cell where nothing was seen

random = np.random.default_rng(0)
with TABLE.open("w") as file:
    file.write("id,time,height,speed\n")
    for i in range(60):
        phase = random.uniform(0, 6)
        for t in np.sort(random.uniform(0, 5, 20)):
            speed = f"{np.cos(t + phase):.4f}" if random.random() < 0.6 else ""
            file.write(f"wave{i},{t:.6f},{np.sin(t + phase):.4f},{speed}\n")

run = zoo.train(
    "ode_rnn",
    {"name": "series_table", "path": TABLE, "share": 0.25, "batch_size": 16},
    trainer={"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    out=TABLE.with_name("run"),
)
print(f"mean squared error of the last quarter of each series: {run['test']['mse']:.3f} (1: the mean of all)")
