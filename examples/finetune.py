"""Fine-tune: trained weights as the start, a new classifier for classes of your own."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import zoo

FOLDER = Path(tempfile.mkdtemp())  # yours: FOLDER/even/1.png, FOLDER/odd/2.png

digits = load_digits()
for i in range(200):  # few pictures, of two classes
    folder = FOLDER / ("odd" if digits.target[i] % 2 else "even")
    folder.mkdir(exist_ok=True)
    Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).save(folder / f"{i}.png")

data = {"name": "image_folder", "root": FOLDER, "batch_size": 32}
common = {"task": {"warmup_steps": 0}, "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}}
tuned = zoo.train(
    "mdeq_tiny", data, pretrained="mdeq_tiny.digits", out=FOLDER.with_name(FOLDER.name + "_run"), **common
)
print(f"accuracy of two epochs from the weights of digits: {tuned['test']['accuracy']:.0%}")
print(zoo.predict(tuned.folder, next((FOLDER / "odd").glob("*.png"))))
