"""Shapes on textured ground: a segmentation task that is made, not downloaded, and that takes a look at whole shapes.

The ground is darker and waved, a shape brighter and plain, both of a random color: neither says the class, only the
outline does.
"""

from __future__ import annotations

import numpy as np

from zoo.data.images import Arrays
from zoo.data.masks import MaskData

SIZE = 32


class Shapes(MaskData):
    """1,600 made images of 32x32 with one to three shapes each (1,200 and 400), the same on every machine.

    The classes are the ground and four shapes of random size, place and turn, which may hide one another.
    """

    reads_files = False
    num_classes = 5
    in_chans = 3
    mean = (0.4, 0.4, 0.4)
    std = (0.25, 0.25, 0.25)
    classes = ("ground", "disc", "triangle", "ring", "cross")
    scales = (0.8, 1.25)
    usual_crop = (SIZE, SIZE)
    frame = (SIZE, SIZE)

    def fetch(self) -> None:
        pass

    def read(self) -> Arrays:
        return Arrays(*scenes(1_200, seed=1), *scenes(400, seed=2))


def scenes(count: int, seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (count, 3, size, size) and masks uint8 (count, size, size), by the seed alone."""
    random = np.random.Generator(np.random.PCG64(seed))
    row, column = np.mgrid[0:size, 0:size].astype(np.float64)
    images = np.empty((count, 3, size, size), np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for i in range(count):
        image = texture(random, row, column)
        for _ in range(int(random.integers(1, 4))):
            kind = int(random.integers(1, 5))
            radius = random.uniform(0.2, 0.36) * size
            y, x = random.uniform(radius * 0.7, size - radius * 0.7, 2)
            turn = random.uniform(0, 2 * np.pi)
            u = ((column - x) * np.cos(turn) + (row - y) * np.sin(turn)) / radius
            v = (-(column - x) * np.sin(turn) + (row - y) * np.cos(turn)) / radius
            inside = outline(kind, u, v)
            image = np.where(inside, random.uniform(0.55, 0.95, (3, 1, 1)), image)
            masks[i][inside] = kind
        noise = random.normal(0, 0.03, image.shape)
        images[i] = np.clip(255 * (image + noise) + 0.5, 0, 255).astype(np.uint8)
    return images, masks


def texture(random: np.random.Generator, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return a random color with random waves over it, (3, size, size)."""
    color = random.uniform(0.1, 0.5, (3, 1, 1))
    angle, period, phase = random.uniform(0, np.pi), random.uniform(3, 14), random.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * (np.cos(angle) * column + np.sin(angle) * row) / period + phase)
    return color + random.uniform(-0.12, 0.12, (3, 1, 1)) * wave


def outline(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return where a shape of radius 1 is, in coordinates of its own."""
    r = np.hypot(u, v)
    if kind == 1:
        return r < 0.85
    if kind == 2:
        return (v > -0.5) & (v < 1 - np.sqrt(3) * abs(u))
    if kind == 3:
        return (r < 1) & (r > 0.55)
    return (np.minimum(abs(u), abs(v)) < 0.28) & (np.maximum(abs(u), abs(v)) < 1)
