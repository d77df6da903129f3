"""Loading trained models, what is refused, and what a picture is answered."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from trained import run as train

import zoo
from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.storage import model_folder
from zoo.storage.checkpoint import read_checkpoint
from zoo.storage.model_folder import WeightsError
from zoo.storage.preprocessing import Preprocessing
from zoo.training.build import load_run

SHIPPED = cards.list_models(pretrained=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def place(tmp_path):
    """A copy of a shipped folder, to be damaged."""
    return Path(shutil.copytree(cards.HERE / "weights" / "mdeq_tiny.digits", tmp_path / "mine"))


def change(place, **keys):
    raw = json.loads((place / model_folder.CONFIG).read_text())
    (place / model_folder.CONFIG).write_text(json.dumps({**raw, **keys}))


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.mkdir, (self.file,)


# ---------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_loads_by_name_and_by_folder(name):
    one = zoo.create_model(name, pretrained=True)
    two = zoo.load(cards.HERE / "weights" / name)
    assert one.training
    assert not two.training
    assert one.pretrained == two.pretrained
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    assert one.pretrained.name == name
    if hasattr(one, "in_chans"):
        assert Preprocessing.read(one.pretrained.preprocessing).in_chans == one.in_chans


def test_names_patterns_and_tags():
    assert "mdeq_tiny.digits" in zoo.list_models("mdeq*", pretrained=True)
    assert zoo.list_models("nothing*", pretrained=True) == []
    assert zoo.create_model("mdeq", pretrained=True).pretrained.name == "mdeq_tiny.digits"
    with pytest.raises(UnknownName, match="No weights of 'mdeq_tiny' named 'cifar10'"):
        zoo.create_model("mdeq_tiny.cifar10", pretrained=True)


def test_the_solver_is_swapped_and_the_answer_stays():
    x = torch.randn(4, 1, 8, 8)
    model = zoo.load("mdeq_tiny.digits", solver={"name": "broyden", "rtol": 1e-5, "max_steps": 60})
    other = zoo.load("mdeq_tiny.digits", solver={"name": "anderson", "rtol": 1e-5, "max_steps": 60}, adjoint="phantom")
    assert type(other.solver).__name__ == "Anderson"
    assert type(other.adjoint).__name__ == "Phantom"
    torch.testing.assert_close(model(x), other(x), rtol=1e-3, atol=1e-3)
    kept = zoo.load("mdeq_tiny.digits", solver="anderson").solver
    assert (kept.rtol, kept.max_steps) == (1e-3, 18)


def test_another_number_of_classes_gets_a_new_head_and_keeps_the_rest():
    model = zoo.load("mdeq_tiny.digits")
    other = zoo.load("mdeq_tiny.digits", num_classes=3)
    assert other(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(model.forward_features(x), other.forward_features(x))
    assert "classes" not in other.pretrained.preprocessing
    assert zoo.load("mdeq_tiny.digits", num_classes=10).pretrained == model.pretrained
    with pytest.raises(WeightsError, match="do not fit the model: .* the model has"):
        zoo.load("mdeq_tiny.digits", in_chans=3)


def test_a_run_loads_as_it_was_trained(trained):
    model = zoo.load(trained)
    same = zoo.load(trained / "checkpoints" / "best.ckpt")
    task = load_run(trained)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), same(x))
    assert torch.equal(model(x), task.model(x))
    assert model.pretrained.name == "test_mdeq.digits"
    assert zoo.predict(model, torch.zeros(8, 8)).label in "0123456789"


def test_a_hub_is_asked_for_three_files_only(place, monkeypatch):
    asked = []

    def snapshot(name, *, revision, allow_patterns):
        asked.append((name, revision, sorted(allow_patterns)))
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert zoo.load("hf-hub:someone/mdeq@v1").pretrained.name == "mdeq_tiny.digits"
    assert asked == [("someone/mdeq", "v1", ["README.md", "config.json", "model.safetensors"])]
    assert zoo.load(f"local-dir:{place}").pretrained.name == "mdeq_tiny.digits"
    assert zoo.load(place / "model.safetensors").pretrained.name == "mdeq_tiny.digits"


def test_a_read_only_cache_is_read_and_one_that_is_empty_says_so(place, tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    snapshot = cache / "models--someone--mdeq" / "snapshots" / ("0" * 40)
    shutil.copytree(place, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    folders = [cache, *(p for p in cache.rglob("*") if p.is_dir())]
    for part in folders:
        part.chmod(0o555)
    try:
        assert zoo.load("hf-hub:someone/mdeq").pretrained.name == "mdeq_tiny.digits"
    finally:
        for part in folders:
            part.chmod(0o755)

    def refused(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(cache / "models--someone--other"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)  # whoever runs as root may write anywhere
    with pytest.raises(WeightsError, match=r"cannot be written \(Permission denied\)\. Set HF_HOME"):
        zoo.load("hf-hub:someone/other")


def test_without_a_network_the_cache_and_the_command_are_named(monkeypatch):
    with pytest.raises(WeightsError, match=r"neither reachable nor in the cache .*hf download nobody/none-such"):
        zoo.load("hf-hub:nobody/none-such")
    for bad in ("hf-hub:../../etc", "hf-hub:one", "hf-hub:a/b/c", "hf-hub:a/b@../x"):
        with pytest.raises(WeightsError, match="wants 'organization/name'"):
            zoo.load(bad)


# ---------------------------------------------------------------------------------------------------------- refusals


def test_a_flipped_bit_and_a_short_file(place):
    file = place / model_folder.WEIGHTS
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(WeightsError, match="damaged or was changed: its sha256 is .*config.json says"):
        zoo.load(place)
    file.write_bytes(whole[:1000])
    with pytest.raises(WeightsError, match="damaged or was changed"):
        zoo.load(place)


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 7, (1 << 43).to_bytes(8, "little") + b"{}", b"\x02" + b"\x00" * 7 + b"{]"]
)
def test_what_is_no_safetensors_file_though_its_hash_is_right(place, data):
    import hashlib

    (place / model_folder.WEIGHTS).write_bytes(data)
    change(place, weights={"sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(WeightsError, match="is no whole safetensors file"):
        zoo.load(place)


def test_weights_of_another_architecture_are_refused_whole(place):
    import hashlib

    data = save({"stem.0.weight": torch.zeros(1)})
    (place / model_folder.WEIGHTS).write_bytes(data)
    change(place, weights={"sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(WeightsError, match=r"do not fit the model: .* is missing \(and \d+ more\)"):
        zoo.load(place)
    model = zoo.create_model("test_mdeq")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(WeightsError, match="is unknown to the model"):
        model_folder.fill(model, {**before, "more": torch.zeros(1)}, "it")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_cards_hash_goes_before_the_folders(monkeypatch, tmp_path, place):
    """Who can change the weights can change config.json beside them, but not the card."""
    import hashlib

    weights = tmp_path / "weights" / "mdeq_tiny.digits"
    shutil.copytree(place, weights)
    state = model_folder.read_weights(weights, model_folder.read(weights))
    data = save({k: v + 1 for k, v in state.items()})
    (weights / model_folder.WEIGHTS).write_bytes(data)
    change(weights, weights={"sha256": hashlib.sha256(data).hexdigest()})
    monkeypatch.setattr(cards, "HERE", tmp_path)
    with pytest.raises(WeightsError, match="the card says"):
        zoo.create_model("mdeq_tiny.digits", pretrained=True)


def test_a_configuration_that_asks_for_terabytes_takes_no_memory(place):
    saved = model_folder.read(place)
    for channels in ([8_000_000, 8_000_000], [8 * 10**12, 8], [10**30, 8]):
        change(place, model={**saved.model, "channels": channels})
        with pytest.raises(WeightsError, match="do not fit the model|cannot be built"):
            zoo.load(place)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"modle": {}}, "No key named 'modle'. Did you mean 'model'"),
        ({"format": 99}, "has format 99; this version of zoo reads up to 1. Upgrade"),
        ({"format": "1"}, "'format' must be a whole number"),
        ({"name": "mdeq_tyni.digits"}, "No model named 'mdeq_tyni.digits'. Did you mean 'mdeq_tiny'"),
        ({"name": "../../mdeq_tiny"}, "No model named '../../mdeq_tiny'"),
        ({"model": []}, "model must be a dict"),
        ({"model": {"chanels": [8]}}, "No argument of 'mdeq_tiny' named 'chanels'. Did you mean 'channels'"),
        ({"model": {"channels": "many"}}, "the configuration cannot be built"),
        ({"solver": {"name": "os.system"}}, "No solver named 'os.system'"),
        ({"weights": {}}, "weights.sha256 is missing"),
    ],
)
def test_a_wrong_configuration_is_named_by_file_and_key(place, keys, said):
    change(place, **keys)
    with pytest.raises(WeightsError) as error:
        zoo.load(place)
    assert str(place) in str(error.value)
    assert said in str(error.value)


def test_what_is_no_configuration(place, tmp_path):
    (place / model_folder.CONFIG).write_text("{")
    with pytest.raises(WeightsError, match="is not valid JSON"):
        zoo.load(place)
    (place / model_folder.CONFIG).write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="is not valid JSON"):
        zoo.load(place)
    (place / model_folder.CONFIG).write_text(" " * (model_folder.LIMIT + 1))
    with pytest.raises(WeightsError, match="is no configuration: it has .* at most"):
        zoo.load(place)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="is no model folder.*pytorch_model.bin there is a pickle"):
        zoo.load(tmp_path / "empty")
    with pytest.raises(WeightsError, match="does not exist.*say 'hf-hub:org/name'"):
        zoo.load("org/name")


def test_a_pickle_is_refused_by_name_and_does_not_run(trained, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    file = copy / "checkpoints" / "best.ckpt"
    good = torch.load(file, weights_only=True)
    torch.save({**good, "more": Payload(ran)}, file)
    said = r"is refused: it names \w+\.mkdir, which may run code"
    with pytest.raises(WeightsError, match=said):
        zoo.load(copy)
    file.write_bytes(pickle.dumps({"state_dict": {}, "more": Payload(ran)}, protocol=2))  # not even torch's archive
    with pytest.raises(WeightsError, match=said):
        zoo.load(copy)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(WeightsError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set"):
        read_checkpoint(file)
    monkeypatch.undo()
    bare = tmp_path / "model.pt"
    bare.write_bytes(file.read_bytes())
    with pytest.raises(WeightsError, match="is a pickle, which may run code"):
        zoo.load(bare)
    assert not ran.exists()


def test_a_damaged_checkpoint_says_so(trained, tmp_path):
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    file = copy / "checkpoints" / "best.ckpt"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(WeightsError, match="is no whole checkpoint"):
        zoo.load(copy)
    torch.save({"weights": {}}, file)
    with pytest.raises(WeightsError, match="it has no 'state_dict'"):
        zoo.load(copy)
    torch.save({"state_dict": {}}, file)
    (copy / "config.yaml").write_text("!!python/object/apply:os.mkdir [x]")
    with pytest.raises(WeightsError, match="does not say how its model was made"):
        zoo.load(copy)


def test_nothing_in_the_package_unpickles_or_evaluates_text():
    forbidden = re.compile(
        r"weights_only\s*=\s*False|pickle\.loads?\(|yaml\.(full_|unsafe_)?load\(|(?<![\w.])(eval|exec)\((?!\))|os\.system\(|"
        r"shell\s*=\s*True|trust_remote_code"
    )
    for path in sorted(Path(zoo.__file__).parent.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = line.partition("#")[0]
            assert not forbidden.search(code), f"{path.name}:{number}: {line.strip()}"


# ---------------------------------------------------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def digits():
    from zoo.data import DATA

    return DATA["digits"]().split("test")


@pytest.mark.parametrize("name", [n for n in SHIPPED if n.endswith(".digits")])
def test_digits_are_read(name, digits):
    x, y = digits
    model = zoo.load(name)
    answers = zoo.predict(model, x[:60])
    expected = round(60 * cards.card(name).measured["digits"]["accuracy"])
    assert sum(a.label == str(int(t)) for a, t in zip(answers, y, strict=False)) >= expected - 3
    one = zoo.predict(model, x[0])
    assert one.label == answers[0].label
    assert one.probability == pytest.approx(answers[0].probability, abs=0.01)  # the solver's tolerance
    assert one.converged
    assert len(one.top) == 3
    assert one.top[0] == (one.label, one.probability)
    assert str(one).startswith(f"{one.label} ")


def test_a_picture_may_come_in_any_form(digits, tmp_path):
    x, y = digits
    clear = int(np.argmax([a.probability for a in zoo.predict("mdeq_tiny.digits", x[:50])]))
    raw = x[clear, 0].numpy()  # whole numbers up to 16
    picture = Image.fromarray(np.round(raw / 16 * 255).astype(np.uint8))
    picture.save(tmp_path / "digit.png")
    forms = [raw, torch.from_numpy(raw), raw / 16.0, picture, picture.convert("RGB"), tmp_path / "digit.png"]
    forms += [str(tmp_path / "digit.png"), np.repeat(raw[:, :, None], 3, 2), picture.convert("RGBA")]
    answers = zoo.predict("mdeq_tiny.digits", forms, top=2)
    assert {a.label for a in answers} == {str(int(y[clear]))}
    assert max(a.probability for a in answers) - min(a.probability for a in answers) < 0.02
    big = zoo.predict("mdeq_tiny.digits", picture.resize((64, 64), Image.Resampling.NEAREST))
    assert big.label == answers[0].label


def test_what_is_no_picture_is_said():
    model = zoo.load("mdeq_tiny.digits")
    for bad, said in (
        (torch.randn(8, 8), "Pixels must lie between 0 and 1"),
        (torch.full((8, 8), torch.nan), "Pixels must lie between 0 and 1"),
        (torch.full((8, 8), 200, dtype=torch.uint8), "Pixels must lie between 0 and 16; got 200 to 200"),
        (torch.zeros(5), "got (5,)"),
        (torch.zeros(2, 8, 8), "got (2, 8, 8)"),
        ([], "the list is empty"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            zoo.predict(model, bad)
    with pytest.raises(ValueError, match="was not loaded with weights"):
        zoo.predict(zoo.create_model("test_mdeq"), torch.zeros(8, 8))


def test_preprocessing_is_what_training_did(digits):
    from zoo.data import DATA

    x, _ = digits
    given = zoo.load("odenet_mnist.digits").pretrained.preprocessing
    prepare = Preprocessing.read(given)
    torch.testing.assert_close(prepare(x), DATA["digits"]().transform(x))
    assert prepare.as_dict() == given
    assert Preprocessing.read(given) == prepare
    color = dataclasses.replace(prepare, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert color(x[:2]).shape == (2, 3, 8, 8)
    for wrong, said in (
        ({"sise": 8}, "No key|did you mean"),
        ({"std": [0.0]}, "positive"),
        ({"kind": "text"}, "not known"),
    ):
        with pytest.raises(ValueError, match=f"(?i){said}"):
            Preprocessing.read({**given, **wrong})
