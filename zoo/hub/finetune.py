"""Start a model from the weights of another: `transfer`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from zoo.hub.pretrained import load
from zoo.hub.trained import set_trained_config, trained_config
from zoo.storage import model_folder


def transfer(model: nn.Module, source: str | Path, *, data: str = "") -> list[str]:
    """Start a model from trained weights. A classifier that was trained for other classes is left as it is.

    Args:
        model: of the same architecture; its weights are overwritten.
        source: as `load` takes it.
        data: the data set that the model is for; the classifier is taken along only if the weights are for it too.

    Returns:
        the names that were left as they are: the classifier's, or none.

    Raises:
        WeightsError: a weight is missing on either side, or has another shape; then nothing was copied.
    """
    trained = load(source)
    state, own = trained.state_dict(), model.state_dict()
    saved = trained_config(trained)
    same = saved is not None and saved.name.partition(".")[2] == data
    fresh: list[str] = []
    if not same and callable(getattr(model, "get_classifier", None)):
        classifier = model.get_classifier()  # type: ignore[operator]
        names = [f"{n}." for n, m in model.named_modules() if m is classifier]
        fresh = [k for k in own if any(k.startswith(n) for n in names)]
    model_folder.check({k: v for k, v in own.items() if k not in fresh},
                 {k: v for k, v in state.items() if k not in fresh}, str(source))  # fmt: skip
    model.load_state_dict({k: own[k] if k in fresh else state[k] for k in own})
    if saved is not None and saved.preprocessing.get("kind") == "text":
        set_trained_config(model, saved)  # so that its task refuses other symbols
    return fresh
