"""Cards: what they must hold, how recipes and specs overlay one another, and building models from them."""

from __future__ import annotations

import pytest
import torch
import yaml

import zoo
from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.storage import model_folder

CARD = {
    "family": "toy",
    "class": "zoo.deq.mdeq:MDEQ",
    "task": "zoo.tasks.classification:Classification",
    "summary": "a toy",
    "data": ["digits", "mnist"],
    "solver": {"name": "broyden", "max_steps": 7, "rtol": 0.5},
    "adjoint": {"name": "phantom"},
    "variants": {
        "toy_small": {
            "summary": "small",
            "model": {"in_chans": 1, "channels": [4, 4], "head_channels": [2, 3], "final_channels": 12, "groups": 2},
        }
    },
    "aliases": {"toy": "toy_small"},
    "recipes": {
        "*": {"*": {"optim": {"lr": 1.0, "name": "sgd"}}, "mnist": {"optim": {"lr": 2.0}}},
        "toy_small": {"*": {"data": {"batch_size": 8}}, "digits": {"optim": {"lr": 3.0}}},
    },
}
SERIES = [torch.tensor([[0.0, 0.5, 1.0]]), torch.ones(1, 3, 2), torch.ones(1, 3, 2, dtype=torch.bool)]


@pytest.fixture
def write(tmp_path, monkeypatch):
    cards.all_cards()  # the package's own, before the tables are copied
    monkeypatch.setattr(cards, "_cards", dict(cards._cards))
    monkeypatch.setattr(cards, "_aliases", dict(cards._aliases))
    monkeypatch.setattr(cards, "HERE", tmp_path)

    def put(**changes):
        card = {k: v for k, v in {**CARD, **changes}.items() if v is not None}
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        file.write_text(yaml.safe_dump(card))
        return file

    return put


def test_a_registered_card_is_known_by_name_and_alias(write):
    cards.register_card(write())
    assert "toy_small" in zoo.list_models("toy*")
    assert cards.card("toy") is cards.card("toy_small")
    assert cards.card("toy.mnist").name == "toy_small"
    assert cards.card("toy").aliases == ("toy",)
    with pytest.raises(UnknownName, match="No model named 'toy_smal'. Did you mean 'toy_small'"):
        cards.card("toy_smal")


@pytest.mark.parametrize("key", ["license", "licence"])
def test_a_license_may_be_spelled_either_way(write, key):
    cards.register_card(write(**{key: "MIT"}))
    assert cards.card("toy").licence == "MIT"


def test_the_more_specific_recipe_wins(write):
    cards.register_card(write())
    assert cards.recipe("toy") == {"optim": {"lr": 3.0, "name": "sgd"}, "data": {"batch_size": 8}}
    assert cards.recipe("toy", "mnist")["optim"]["lr"] == 2.0
    assert cards.recipe("toy.mnist")["optim"]["lr"] == 2.0


def test_a_model_gets_the_cards_solver_or_the_given_one(write):
    cards.register_card(write())
    model = zoo.create_model("toy")
    assert type(model.solver).__name__ == "Broyden"
    assert (model.solver.max_steps, model.solver.rtol) == (7, 0.5)
    assert type(model.adjoint).__name__ == "Phantom"
    model = zoo.create_model("toy", solver="anderson", adjoint={"name": "implicit"}, num_classes=3)
    assert type(model.solver).__name__ == "Anderson"
    assert (model.solver.max_steps, model.solver.rtol) == (7, 0.5)
    assert type(model.adjoint).__name__ == "Implicit"
    assert zoo.create_model("toy", solver={"name": "picard", "max_steps": 2}).solver.max_steps == 2
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_wrong_argument_or_solver_names_the_nearest(write):
    cards.register_card(write())
    with pytest.raises(UnknownName, match="Did you mean 'dropout'"):
        zoo.create_model("toy", dropot=0.1)
    with pytest.raises(UnknownName, match="Did you mean 'broyden'"):
        zoo.create_model("toy", solver="broydn")
    with pytest.raises(UnknownName, match="No data set of 'toy_small' named 'imagenet'"):
        zoo.create_model("toy.imagenet")


TIGHT = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-9, "max_steps": 1}


@pytest.mark.parametrize(
    "name, solver, inputs",
    [
        ("test_mdeq", {"name": "broyden", "rtol": 1e-9, "max_steps": 1}, [torch.ones(2, 1, 8, 8)]),
        ("test_hyper_deq", {"name": "picard", "rtol": 1e-9, "max_steps": 1}, [torch.ones(2, 1, 8, 8)]),
        ("test_steady", {"name": "picard", "rtol": 1e-9, "max_steps": 1}, [torch.ones(2, 1, 8, 8)]),
        ("test_steady", TIGHT, [torch.ones(2, 1, 8, 8)]),
        ("test_odenet", TIGHT, [torch.ones(2, 1, 8, 8)]),
        ("test_cnf", TIGHT, [torch.ones(2, 2)]),
        *(
            (name, TIGHT, [*SERIES, torch.tensor([[1.5, 2.5]])])
            for name in ("test_ode_rnn", "test_neural_cde", "test_latent_ode", "test_hyper_ode")
        ),
    ],
)
def test_an_unfinished_solve_of_any_model_raises_where_that_was_chosen(name, solver, inputs):
    torch.manual_seed(0)
    model = zoo.create_model(name, solver=solver)
    model(*inputs)
    with pytest.raises(zoo.SolveError):
        zoo.create_model(name, solver=solver, throw=True)(*inputs)
    model.configure_implicit(throw=True)
    with pytest.raises(zoo.SolveError):
        model(*inputs)


def test_weights_may_be_loaded_to_raise_and_explicit_models_never_do():
    image = torch.ones(1, 1, 8, 8)
    solver = {"name": "broyden", "rtol": 1e-9, "max_steps": 1}
    zoo.load("mdeq_tiny.digits", solver=solver)(image)
    with pytest.raises(zoo.SolveError):
        zoo.load("mdeq_tiny.digits", solver=solver, throw=True)(image)
    with pytest.raises(ValueError, match="is an explicit model: it takes no throw"):
        zoo.create_model("test_cnn", throw=True)


def test_weights_are_checked_and_loaded(write, tmp_path):
    cards.register_card(write())
    source = zoo.create_model("toy")
    with pytest.raises(UnknownName, match="'toy_small' has no trained weights"):
        zoo.create_model("toy", pretrained=True)
    place = tmp_path / "weights" / "toy_small.digits"
    arguments = {**CARD["variants"]["toy_small"]["model"], "num_classes": 10}
    specs = {"solver": CARD["solver"], "adjoint": CARD["adjoint"]}
    saved = model_folder.write(
        place, model_folder.Config(name="toy_small.digits", model=arguments, weights={}, **specs), source.state_dict()
    )
    file = place / model_folder.WEIGHTS
    entry = {"file": "toy_small.digits/model.safetensors", "sha256": saved.weights["sha256"]}
    cards._cards.clear()
    cards._aliases.clear()
    cards.register_card(write(weights={"toy_small": {"digits": entry}}))
    assert zoo.list_models("toy*", pretrained=True) == ["toy_small.digits"]
    for name in ("toy", "toy.digits"):
        loaded = zoo.create_model(name, pretrained=True)
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in source.state_dict().items())
        assert (loaded.solver.max_steps, loaded.pretrained.name) == (7, "toy_small.digits")
    other = zoo.create_model("toy", pretrained=True, num_classes=3, solver="anderson")
    assert other.num_classes == 3
    assert type(other.solver).__name__ == "Anderson"
    assert torch.equal(other.stem[0].weight, source.stem[0].weight)
    with pytest.raises(ValueError, match="do not fit the model: .* is .*, the model has"):
        zoo.create_model("toy", pretrained=True, final_channels=16)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is damaged or was changed: its sha256 is"):
        zoo.create_model("toy", pretrained=True)
    file.unlink()
    with pytest.raises(ValueError, match="which cannot be read"):
        zoo.create_model("toy", pretrained=True)


def test_large_weights_come_from_a_hub(write, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    cards.register_card(write(weights={"toy_small": {"digits": {"hub": "someone/toy@v2", "sha256": "0"}}}))
    assert cards.weights_of(cards.card("toy")) == (tmp_path, "0")
    assert asked == [("someone/toy", "v2")]


def test_weights_lie_below_the_folder_of_weights(write):
    entry = {"file": "../elsewhere/model.safetensors", "sha256": "0"}
    cards.register_card(write(weights={"toy_small": {"digits": entry}}))
    with pytest.raises(cards.CardError, match="must be FOLDER/model.safetensors below"):
        zoo.create_model("toy", pretrained=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": None}, "the key 'task' is missing"),
        ({"familly": "x"}, "familly: No key named 'familly'. Did you mean 'family'"),
        ({"license": "MIT", "licence": "MIT"}, "license is given twice"),
        ({"data": "digits"}, "data must be a list; got 'digits'"),
        ({"data": []}, "data must list the names of data sets"),
        ({"class": "zoo.deq.mdeq.MDEQ"}, "class must be 'package.module:Class'"),
        ({"aliases": {"toy": "toy_smal"}}, "aliases.toy: No variant named 'toy_smal'. Did you mean 'toy_small'"),
        ({"variants": {"toy.small": {}}}, "a name has no dot"),
        ({"variants": {"toy:small": {}}}, "a name has no dot and no colon"),
        ({"variants": {"toy_small": {"modle": {}}}}, "variants.toy_small.modle: No key named 'modle'"),
        ({"solver": {"max_steps": 3}}, "solver of 'toy_small' needs a 'name'"),
        ({"weights": {"toy_smal": {}}}, "weights.toy_smal: No variant named 'toy_smal'"),
        ({"weights": {"toy_small": {"digits": {"file": "x"}}}}, "must hold 'sha256' and either 'file' or 'hub'"),
        ({"recipes": {"toy_smal": {}}}, "recipes.toy_smal: No variant named 'toy_smal'"),
        ({"recipes": {"*": {"*": {"optimm": {}}}}}, "recipes.*.*.optimm: No key named 'optimm'. Did you mean 'optim'"),
        ({"variants": {"mdeq_tiny": {}}}, "the name 'mdeq_tiny' is taken by"),
    ],
)
def test_a_wrong_card_is_named_by_file_and_key(write, changes, said):
    if "variants" in changes:
        changes = {**changes, "aliases": {}, "recipes": {}}
    file = write(**changes)
    with pytest.raises(cards.CardError) as error:
        cards.register_card(file)
    assert str(file) in str(error.value)
    assert said in str(error.value)


def test_a_file_that_is_no_card(tmp_path):
    with pytest.raises(cards.CardError, match="cannot be read"):
        cards.register_card(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(cards.CardError, match="is not valid YAML"):
        cards.register_card(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(cards.CardError, match="a card is a mapping"):
        cards.register_card(tmp_path / "list.yaml")


def test_entry_points_may_be_packages_paths_or_functions(write, tmp_path, monkeypatch):
    write()
    assert cards._files(str(tmp_path)) == sorted(tmp_path.glob("*.yaml"))
    assert cards._files([tmp_path / "0.yaml"]) == [tmp_path / "0.yaml"]
    package = type(zoo)("package")
    package.__file__ = str(tmp_path / "__init__.py")
    assert cards._files(package) == sorted(tmp_path.glob("*.yaml"))


@pytest.mark.parametrize("name", cards.list_models(tests=True))
def test_every_card_of_the_package_names_things_that_exist(name):
    from zoo.adjoints import ADJOINTS
    from zoo.data import DATA
    from zoo.registry import check_options
    from zoo.solvers import SOLVERS

    card = cards.card(name)
    check_options("argument", card.load(), card.model)
    assert card.load_task() is not None
    assert bool(card.solver) == bool(card.adjoint)  # an explicit model has neither
    assert not card.solver or (card.solver["name"] in SOLVERS and card.adjoint["name"] in ADJOINTS)
    assert all(d in DATA for d in card.data)
    assert card.licence
    assert card.paper["url"]


def test_a_name_after_a_colon_sets_what_the_card_leaves_open():
    assert cards.card("timm:resnet18").model["arch"] == "resnet18"
    assert cards.card("timm:test_convnext").name == "timm:test_convnext"
    assert cards.card("timm:test_convnext.mnist").name == "timm:test_convnext"
    assert cards.recipe("timm:test_convnext", "digits") == cards.recipe("timm", "digits")
    model = zoo.create_model("timm:test_convnext", in_chans=1, num_classes=3)
    assert (model.arch, model(torch.zeros(2, 1, 8, 8)).shape) == ("test_convnext", (2, 3))
    assert zoo.create_model("timm:test_convnext.digits").arch == "test_convnext"
    assert cards.is_card_name("timm:resnet18")
    assert not cards.is_card_name("hf-hub:org/name") and not cards.is_card_name("hf-hub:name")
    for name, said in (
        ("timm:", "write timm:NAME"),
        ("tim:resnet18", "Did you mean 'timm:resnet18'"),
        ("mdeq_tiny:resnet18", "'mdeq_tiny' takes nothing after a colon"),
    ):
        with pytest.raises(UnknownName, match=said):
            cards.card(name)
    with pytest.raises(UnknownName, match="No timm model named 'resnet18x'"):
        zoo.create_model("timm:resnet18x")


def test_the_tests_own_models_are_hidden_and_nothing_is_hinted_twice():
    assert not any(n.startswith("test_") for n in zoo.list_models())
    assert set(zoo.list_models(tests=True)) - set(zoo.list_models()) == set(zoo.list_models("test_*")) != set()
    assert not any(n.startswith("test_") for n in zoo.list_models("*mdeq*"))
    with pytest.raises(UnknownName) as error:
        cards.card("mdeqq")
    assert "'mdeq'" in str(error.value) and "test_" not in str(error.value) and len(str(error.value)) < 200
    with pytest.raises(UnknownName, match="Did you mean 'test_mdeq'"):
        cards.card("test_mdeqq")
    with pytest.raises(UnknownName, match=r"Did you mean 'digits'\? Known: cifar10, digits, fashion_mnist"):
        zoo.load("mdeq_tiny.digit")


OWN = """
import torch
from zoo.deq import DEQ


class Cell(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)

    def forward(self, z, x):
        return torch.tanh(0.3 * self.linear(z) + x)


class Net(torch.nn.Module):
    def __init__(self, num_classes: int = 10, in_chans: int = 1):
        super().__init__()
        self.deq, self.classifier = DEQ(Cell()), torch.nn.Linear(64, num_classes)

    def forward(self, x):
        return self.classifier(self.deq(x.flatten(1)))
"""


def test_a_model_around_a_layer_takes_solvers_though_it_is_no_mixin_itself(write, tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    cards.register_card(write(**{"class": "own_net:Net", "variants": {"own_net": {}}, "aliases": {}, "recipes": {}}))
    model = zoo.create_model("own_net", solver="anderson", throw=True)
    assert (type(model.deq.solver).__name__, model.deq.solver.max_steps, model.deq.throw) == ("Anderson", 7, True)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match="is an explicit model: it takes no solver. .*zoo.ImplicitMixin"):
        zoo.create_model("test_cnn", solver="anderson")


def test_a_run_of_a_timm_model_is_asked_for_and_found_again_by_its_name(tmp_path, monkeypatch):
    from zoo.training.request import resolve

    request = resolve(["--model", "timm:test_convnext"])
    assert request.config["model"] == {"name": "timm:test_convnext", "arch": "test_convnext"}
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "timm_test_convnext_digits" / "1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    (run / "config.yaml").write_text("model: {name: 'timm:test_convnext'}\ndata: {name: digits}\n")
    found = resolve(["--model", "timm:test_convnext", "--data", "digits", "--resume", "last"])
    assert found.resume.resolve() == run / "checkpoints" / "last.ckpt"
