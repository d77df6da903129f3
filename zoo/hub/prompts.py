"""Ask language models about prompts: what comes next, and how likely the prompt itself is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.hub.answers import Answer, Continuation, Solved, ranked
from zoo.hub.generate import read_prompt, tokenizer_of
from zoo.hub.inputs import Inputs
from zoo.storage.guards import MiB, read_file

LARGEST = 64 * MiB  # of a file of prompts


class Prompts(Inputs):
    """Prompts for a language model.

    Args:
        given: a prompt, a list of them, a text file with one prompt a line (``\\n`` is a new line), or a folder of such
            ``.txt`` files.
        length: symbols to write after each.
    """

    noun = "prompt"

    def __init__(self, model: nn.Module, given: Any, top: int, length: int) -> None:
        super().__init__(model, top)
        if length < 0:
            raise ValueError(f"length must be at least 0; got {length}.")
        self.tokenizer, self.length = tokenizer_of(model), length
        self.items, self.sources, self.several = _prompts(given)

    def source(self, i: int) -> str:
        return self.sources[i]

    def prepare(self, i: int) -> tuple[Tensor, ...]:
        return (read_prompt(self.tokenizer, self.items[i])[None],)

    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tokens = batch[0].to(self.device)
        logits, memory = self.model(tokens)
        chances = logits.float().log_softmax(-1)
        told = chances[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
        nats = -told.mean(1) if tokens.shape[1] > 1 else tokens.new_full((len(tokens),), math.nan, dtype=torch.float32)
        first, written = chances[:, -1], tokens[:, :0]
        while written.shape[1] < self.length:
            new = _likeliest(logits[:, -1], self.tokenizer.unknown)
            written = torch.cat([written, new], 1)
            # a model without a memory reads everything again
            step = torch.cat([tokens, written], 1) if memory is None else new
            logits, memory = self.model(step, memory)
        return first.exp(), written, nats

    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        p, order = out[0].topk(min(self.top, len(out[0])))
        top = tuple((self.tokenizer.decode([k]), float(v)) for k, v in zip(order.tolist(), p, strict=True))
        start = self.tokenizer.encode(self.items[i]).tolist()
        text = self.tokenizer.decode([*start, *out[1].tolist()])[len(self.tokenizer.decode(start)) :]
        return Continuation(self.items[i], text, top, float(out[2]), source=self.source(i), **vars(solved))

    def unread(self, i: int, error: str) -> Answer:
        return Continuation(self.items[i], "", (), converged=False, source=self.source(i), error=error)

    def columns(self) -> tuple[str, ...]:
        return (*Continuation.columns, *ranked(self.top))


def _likeliest(logits: Tensor, never: int | None) -> Tensor:
    if never is not None:
        logits = logits.index_fill(1, torch.tensor([never], device=logits.device), -torch.inf)
    return logits.argmax(1, keepdim=True)


def _prompts(given: Any) -> tuple[list[str], list[str], bool]:
    """The prompts, where each stands, and whether several were asked about."""
    if isinstance(given, (list, tuple)):
        if not given or not all(isinstance(p, str) for p in given):
            raise ValueError("Prompts are a list of texts, at least one; for a file give its path alone.")
        return list(given), [""] * len(given), True
    if not isinstance(given, (str, Path)):
        raise ValueError(f"This is a language model: let it write on from a text, a str; got {type(given).__name__}.")
    place = Path(given) if isinstance(given, Path) or (len(given) < 1024 and "\n" not in given) else None
    if place is None or not place.exists():
        if isinstance(given, Path):
            raise FileNotFoundError(f"{given} does not exist.")
        return [given], [""], False
    files = sorted(place.rglob("*.txt")) if place.is_dir() else [place]
    found = [(line, f"{file}:{n}") for file in files for n, line in enumerate(_lines(file), 1) if line.strip()]
    if not found:
        raise ValueError(f"{given} holds no prompts: one a line is expected{', in .txt files' * place.is_dir()}.")
    return [line.replace("\\n", "\n") for line, _ in found], [source for _, source in found], True


def _lines(file: Path) -> list[str]:
    try:
        return read_file(file, LARGEST).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: byte {error.start} cannot be decoded.") from error
