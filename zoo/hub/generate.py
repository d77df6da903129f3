"""Text from a trained language model, symbol by symbol, with its memory carried along.

zoo.generate("runs/lstm_small_tiny_shakespeare/...", "ROMEO:", length=300)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.hub.pretrained import load
from zoo.hub.trained import trained_config
from zoo.storage.text_preprocessing import TextPreprocessing
from zoo.storage.tokenizer import Tokenizer


def generate(
    model: nn.Module | str | Path,
    prompt: str,
    *,
    length: int = 200,
    temperature: float = 0.8,
    top_p: float = 1.0,
    seed: int = 0,
) -> str:
    """Let a trained language model go on with a prompt; return both.

    Each symbol is drawn from ``softmax(logits / temperature)``, cut to the smallest set of symbols that has the share
    ``top_p`` of the probability. The unknown symbol is never drawn. The same seed gives the same text.

    Args:
        model: a model from `zoo.load`, or what that takes: a run folder, a model folder, a name.
        prompt: what the text begins with; at least one symbol, all of them known to the model.
        length: symbols to write (characters, words or byte pairs, as the model was trained).
        temperature: below 1 the likely becomes likelier; 0 takes the likeliest symbol each time.
        top_p: in (0, 1]; 1 leaves out nothing.
        seed: of the draws.

    Raises:
        ValueError: a number out of range, a prompt that the model cannot read, or a model that has no tokenizer.

    Reference: Holtzman and others, "The curious case of neural text degeneration", 2020 (top-p, or nucleus, sampling),
    https://arxiv.org/abs/1904.09751
    """
    if not isinstance(model, nn.Module):
        model = load(model)
    if length < 1 or not temperature >= 0 or not 0 < top_p <= 1:
        raise ValueError(
            "length must be at least 1, temperature at least 0 and top_p in (0, 1]; got "
            f"{length}, {temperature} and {top_p}."
        )
    tokenizer = tokenizer_of(model)
    start = read_prompt(tokenizer, prompt)
    drawn = draw(model, start, tokenizer.unknown, temperature, top_p, torch.Generator().manual_seed(seed))
    was = model.training
    model.eval()
    try:
        written = [number for number, _ in zip(drawn, range(length), strict=False)]
    finally:
        model.train(was)
    return prompt + tokenizer.decode([*start.tolist(), *written])[len(tokenizer.decode(start.tolist())) :]


def draw(
    model: nn.Module,
    start: Tensor,
    never: int | None,
    temperature: float,
    top_p: float,
    random: torch.Generator,
) -> Iterator[int]:
    """Yield the token numbers that follow ``start`` (T,), without end."""
    device = next(model.parameters()).device
    tokens, memory = start.to(device)[None], None
    while True:
        with torch.inference_mode():
            logits, after = model(tokens, memory)
        number = choose(logits[0, -1].double().cpu(), never, temperature, top_p, random)
        yield number
        new = torch.tensor([[number]], device=device)
        # a model without a memory reads everything again
        tokens, memory = (torch.cat([tokens, new], 1), None) if after is None else (new, after)


def choose(logits: Tensor, never: int | None, temperature: float, top_p: float, random: torch.Generator) -> int:
    """Choose one symbol by logits (V,)."""
    if never is not None:
        logits = logits.index_fill(0, torch.tensor([never]), -torch.inf)
    if temperature == 0:
        return int(logits.argmax())
    chances = (logits / temperature).softmax(0)
    if top_p < 1:
        ordered, order = chances.sort(descending=True)
        before = ordered.cumsum(0) - ordered  # the likeliest is always kept
        chances = torch.zeros_like(chances).index_put((order,), ordered.where(before < top_p, 0.0))
    return int(torch.multinomial(chances, 1, generator=random))


def tokenizer_of(model: nn.Module) -> Tokenizer:
    """Return the tokenizer that a loaded model was trained with.

    Raises:
        ValueError: it was not loaded with weights, or it is no language model.
    """
    saved = trained_config(model)
    if saved is None:
        raise ValueError(
            f"{type(model).__name__} does not know its tokenizer: it was not loaded with weights. Use zoo.load(...)."
        )
    if saved.preprocessing.get("kind") != "text":
        raise ValueError(f"{saved.name} has no tokenizer: it is no language model, or its run was saved without one.")
    tokenizer = TextPreprocessing.read(saved.preprocessing).symbols()
    if tokenizer.vocab_size > int(model.vocab_size):  # type: ignore[arg-type]
        raise ValueError(
            f"The tokenizer of {saved.name} has {tokenizer.vocab_size} symbols, the model only {model.vocab_size}; "
            "they do not belong together."
        )
    return tokenizer


def read_prompt(tokenizer: Tokenizer, prompt: str) -> Tensor:
    """Return the numbers (T,) of a prompt.

    Raises:
        ValueError: it is empty, or has symbols that the model does not know.
    """
    strange = tokenizer.strange(prompt)
    if strange:
        few = ", ".join(repr(s) for s in strange[:8]) + (", ..." if len(strange) > 8 else "")
        kind = "characters" if tokenizer.level == "characters" else "words"
        known = tokenizer.as_dict().get("alphabet")
        hint = f" It knows: {''.join(known)!r}." if known else " Write others, as they stand in the training text."
        raise ValueError(f"The prompt has {kind} that the model was not trained on: {few}.{hint}")
    numbers = tokenizer.encode(prompt)
    if len(numbers) == 0:
        raise ValueError("The prompt is empty; give the model something to begin with, if only a newline.")
    return torch.from_numpy(numbers).long()
