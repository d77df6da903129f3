"""Train on a folder of pictures, one folder a class, and ask the trained model about new ones."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import zoo

FOLDER = Path(tempfile.mkdtemp())  # yours: FOLDER/cat/1.jpg, FOLDER/dog/2.png, of any size


def draw(kind: str, seed: int) -> Image.Image:
    """Return stripes that lie or stand, with noise."""
    noise = np.random.default_rng(seed).integers(0, 90, (20, 24))
    stripes = 150 * (np.indices((20, 24))[0 if kind == "lying" else 1] // 3 % 2)
    return Image.fromarray((noise + stripes).astype(np.uint8))


for kind in ("lying", "standing"):
    (FOLDER / kind).mkdir()
    for i in range(40):
        draw(kind, i).save(FOLDER / kind / f"{i}.png")

run = zoo.train(
    "mdeq_tiny",
    {"name": "image_folder", "root": FOLDER, "image_size": 8, "batch_size": 16},
    task={"warmup_steps": 0},
    trainer={"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False},
    out=FOLDER.with_name(FOLDER.name + "_run"),
)
draw("lying", 1000).save(FOLDER / "new.png")
answer = zoo.predict(run.folder, FOLDER / "new.png")
print(f"accuracy {run['test']['accuracy']:.0%}; the new picture: {answer}")
