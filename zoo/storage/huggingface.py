"""Fetch a model folder from the Hugging Face Hub, by its cache. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.registry import sentence
from zoo.storage.model_folder import CONFIG, README, WEIGHTS, WeightsError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def download(repository: str) -> Path:
    """Return the folder of a repository, ``organization/name`` or ``organization/name@revision``.

    An interrupted download is resumed, what is in the cache is not fetched again, and nothing but the three known files
    is fetched. With HF_HUB_OFFLINE=1 only the cache is looked at.

    Raises:
        WeightsError: it cannot be had, and is not in the cache; says where it was looked for.
    """
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise WeightsError(f"'hf-hub:' wants 'organization/name', or 'organization/name@revision'; got {repository!r}.")
    import huggingface_hub

    name, _, revision = repository.partition("@")
    try:
        place = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[WEIGHTS, CONFIG, README]
        )
    except PermissionError as error:
        raise WeightsError(
            f"hf-hub:{repository} cannot be fetched: the cache {huggingface_hub.constants.HF_HUB_CACHE} cannot be "
            f"written ({error.strerror or error}). Set HF_HOME to a folder that can."
        ) from error
    except Exception as error:  # the hub's own classes differ by version: a missing network, repository, or permission
        why = sentence(error).rstrip(".")
        raise WeightsError(
            f"hf-hub:{repository} is neither reachable nor in the cache {huggingface_hub.constants.HF_HUB_CACHE} "
            f"({why}). With a network: hf download {name}"
        ) from error
    return Path(place)
