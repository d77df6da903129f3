"""Episodes: shapes, classes that do not mix, fixed evaluation, training by (seed, epoch, batch) alone."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.episodes import DigitEpisodes
from zoo.data.files import DataError
from zoo.data.omniglot import Omniglot


def test_a_batch_of_episodes():
    data = DigitEpisodes(batch_size=3, ways=4, shots=2, queries=5, train_episodes=10, train_ways=5, test_episodes=9)
    x, y, q, t = next(iter(data.train_dataloader()))
    assert x.shape == (3, 10, 1, 8, 8) and q.shape == (3, 25, 1, 8, 8)  # five ways in training
    assert y.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]] * 3
    assert t[0].bincount().tolist() == [5] * 5
    x, y, q, t = next(iter(data.test_dataloader()))
    assert x.shape == (3, 8, 1, 8, 8) and t.shape == (3, 20)
    assert data.sizes == {"train": 10, "val": 200, "test": 9}


def test_classes_and_images_do_not_mix():
    data = DigitEpisodes(ways=4, shots=3, queries=4, val_episodes=2, test_episodes=2)
    images = {name: {x.numpy().tobytes() for x in data.transform(data.split(name)[0])} for name in data.sizes}
    labels = {name: set(data.split(name)[1].tolist()) for name in data.sizes}
    assert labels["train"] == set(range(6)) and labels["test"] == {6, 7, 8, 9}
    assert not images["train"] & images["val"] and not images["train"] & images["test"]
    sampler = data.sampler("test")
    support, _, query, _ = sampler.draw(20, torch.Generator().manual_seed(0))
    known = dict(zip([x.numpy().tobytes() for x in data.transform(sampler.images)], data.split("test")[1], strict=True))
    for one, two in zip(support, query, strict=True):
        kinds = [int(known[x.numpy().tobytes()]) for x in torch.cat([one, two])]
        assert [kinds[i] for i in range(0, 12, 3)] == [kinds[12 + i] for i in range(0, 16, 4)]  # the same four classes
        assert len(set(kinds[:12])) == 4 and kinds[:3] == [kinds[0]] * 3
        seen = {x.numpy().tobytes() for x in one}
        assert not seen & {x.numpy().tobytes() for x in two}  # no image of the support is asked for


def test_evaluation_is_fixed_and_training_depends_on_seed_epoch_and_batch():
    def first(data, epoch=0):
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        return [b[0] for b in loader]

    one, two = DigitEpisodes(batch_size=2, seed=0), DigitEpisodes(batch_size=5, seed=7)
    joined = [torch.cat([b[0] for b in d.val_dataloader()]) for d in (one, two)]
    torch.testing.assert_close(*joined, rtol=0, atol=0)
    small = {"batch_size": 2, "train_episodes": 6}
    torch.testing.assert_close(first(DigitEpisodes(**small)), first(DigitEpisodes(**small)), rtol=0, atol=0)
    a, b, c = (first(DigitEpisodes(**small, seed=s), e) for s, e in ((0, 0), (1, 0), (0, 1)))
    assert not torch.equal(a[0], b[0]) and not torch.equal(a[0], c[0]) and not torch.equal(a[0], a[1])


def test_turned_classes_are_turned_images():
    data = DigitEpisodes(ways=10, shots=1, queries=1, rotations=True, test_episodes=3)
    sampler = data.sampler("test")  # 16 classes of four digits
    known = {x.numpy().tobytes() for x in data.transform(sampler.images)}
    support = sampler.draw(3, torch.Generator().manual_seed(0))[0]
    back = [[x.rot90(-k, (-2, -1)).contiguous().numpy().tobytes() in known for k in range(4)] for x in support[0]]
    assert all(map(any, back)) and not all(row[0] for row in back)


def test_episodes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="ways must be at least 2; got 1"):
        DigitEpisodes(ways=1)
    with pytest.raises(ValueError, match="5 ways, but the test split has only 4 classes"):
        DigitEpisodes(ways=5).test_dataloader()
    with pytest.raises(ValueError, match=r"needs 10 \+ 10 images of a class"):
        DigitEpisodes(shots=10, queries=10).val_dataloader()


def drawings(count: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((count * 20, 105, 105)) < 0.1).astype(np.uint8)


@pytest.fixture
def tiny(monkeypatch):
    """Omniglot of 6 and 4 characters: the published layout, small."""
    monkeypatch.setattr(Omniglot, "published", {"images_background": 6, "images_evaluation": 4})
    monkeypatch.setattr(Omniglot, "parts", (4, 2))
    return {"images_background": drawings(6, 0), "images_evaluation": drawings(4, 1)}


def names(part: str, count: int) -> list[str]:
    return [f"{part[7:11]}/character{i + 1:02d}" for i in range(count)]


def write_compact(root, tiny):
    (root / "Omniglot" / "compact").mkdir(parents=True)
    for part, ink in tiny.items():
        n = len(ink) // 20
        np.savez(root / "Omniglot" / "compact" / f"{part}.npz", bits=np.packbits(ink, axis=-1),
                 label=np.repeat(np.arange(n), 20), classes=np.array(names(part, n)))  # fmt: skip


def write_archives(root, tiny):
    (root / "omniglot-py").mkdir()
    for part, ink in tiny.items():
        with zipfile.ZipFile(root / "omniglot-py" / f"{part}.zip", "w") as archive:
            for i, image in enumerate(ink):
                stream = io.BytesIO()
                Image.fromarray(255 - 255 * image).convert("1").save(stream, "PNG")  # ink is black there
                name = names(part, len(ink) // 20)[i // 20]
                archive.writestr(f"{part}/{name}/{i:04d}_{i % 20 + 1:02d}.png", stream.getvalue())


def test_omniglot_from_both_layouts(tmp_path, tiny):
    sets = []
    for name, write in (("a", write_compact), ("b", write_archives)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, tiny)
        data = Omniglot(root=str(tmp_path / name), ways=3, queries=4, batch_size=2, test_episodes=4, download=False)
        data.prepare_data()
        assert [len(data.split(s)[1]) for s in ("train", "val", "test")] == [80, 40, 80]
        x, _, q, _ = next(iter(data.test_dataloader()))
        assert x.shape == (2, 3, 1, 28, 28) and q.shape == (2, 12, 1, 28, 28) and 0 <= x.min() < x.max() <= 1
        sets.append(data)
    assert sets[0].fingerprint() == sets[1].fingerprint()
    assert not set(sets[0].split("train")[1].tolist()) & set(sets[0].split("val")[1].tolist())


def test_a_missing_or_foreign_omniglot_is_named(tmp_path, tiny):
    with pytest.raises(DataError, match=r"images_background.npz was not found"):
        Omniglot(root=str(tmp_path), download=False).prepare_data()
    tiny["images_evaluation"] = tiny["images_evaluation"][:60]
    write_compact(tmp_path, tiny)
    with pytest.raises(DataError, match="4 characters of 20 drawings were published"):
        Omniglot(root=str(tmp_path), download=False).setup()
    (tmp_path / "Omniglot" / "compact" / "images_background.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match="archive is broken"):
        Omniglot(root=str(tmp_path), download=False).setup()
