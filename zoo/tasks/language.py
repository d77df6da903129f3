"""Language modeling: the likelihood of each next token, with a memory that is carried from segment to segment."""

from __future__ import annotations

import math
import warnings
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torchmetrics import MeanMetric

from zoo.hub.trained import trained_config
from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class Perplexity(MeanMetric):
    """``exp`` of the mean negative log-likelihood, of all tokens of all ranks."""

    def compute(self) -> Tensor:
        return super().compute().exp()


class BitsPerToken(MeanMetric):
    """The mean negative log-likelihood in bits instead of nats."""

    def compute(self) -> Tensor:
        return super().compute() / math.log(2)


class LanguageModel(Task):
    """A language model: the mean over tokens of ``-log p(next token | the tokens before it)``, in nats.

    The model is ``model.loss(tokens, targets, memory) -> (losses (B, T), memory)``; see
    `zoo.layers.language.LanguageHead`. A batch is ``(tokens (B, T), targets (B, T), number)``: segment ``number``
    of B streams of text. Targets below 0 fill up a row, and are not counted. From one segment to the next the model's
    memory is carried, without a gradient; segment 0 starts without one, and a pass over the data begins there.

    The memory of a training run is saved with its checkpoints, of all ranks, so that a run that is resumed within an
    epoch goes on as if it had not been interrupted.

    Metrics: ``nll`` (nats a token), ``perplexity`` (its exponential), and where the data set says that its tokens are
    characters, ``bits_per_character``.

    Args:
        model: a language model; says ``vocab_size``.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        carry: hand each segment's memory to the next; if not, every segment starts without one.

    Raises:
        ValueError: when a run starts: the data set has more symbols than the model.
    """

    monitor = "val/nll"

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        *,
        carry: bool = True,
    ) -> None:
        super().__init__(model, optim, stability)
        self.carry = carry
        self.characters = False
        self.means = stage_metrics(
            lambda: nn.ModuleDict(
                {"nll": MeanMetric(), "perplexity": Perplexity(), "bits_per_character": BitsPerToken()}
            )
        )
        # by stage: number of a segment -> the memory that it starts with. In training the last two are kept, as a step
        # that fails is done again after resuming.
        self._memory: dict[str, dict[int, Any]] = {}

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.characters = getattr(data, "level", "") == "characters"
        symbols = getattr(data, "vocab_size", 0)
        if symbols > int(self.model.vocab_size):  # type: ignore[arg-type]
            raise ValueError(
                f"The data set has {symbols} symbols, the model's vocabulary {self.model.vocab_size}: give the model "
                f"at least vocab_size={symbols}, or load the tokenizer that the model was trained with."
            )
        saved = trained_config(self.model)
        trained = saved.preprocessing if saved is not None else {}
        told = getattr(data, "preprocessing", trained)
        if trained and told != trained:
            raise ValueError(
                "The data set's symbols are not those that the model was trained with, so its numbers would mean other "
                "things. Give the data set the model's own symbols, --data.vocabulary RUN_OR_FOLDER, or measure it on "
                "the text that it was trained on, with the same options (and for python_docs the same Python)."
            )

    def score(self, batch: Any, stage: str) -> Scored:
        tokens, targets, number = batch
        kept = self._memory.setdefault(stage, {})
        before = kept.get(number) if self.carry and number > 0 else None
        if before is not None:  # read from a checkpoint, it still lies in the host's memory
            before = move_data_to_device(before, tokens.device)
        losses, after = self.model.loss(tokens, targets.clamp(min=0), before)  # type: ignore[operator]
        if self.carry:
            self._memory[stage] = {number: before, number + 1: after} if stage == "train" else {number + 1: after}
        if stage == "train":  # every target counts: nothing to ask the device for
            size, loss = targets.numel(), losses.mean()
        else:
            counted = targets >= 0
            size = int(counted.sum())
            loss = (losses * counted).sum() / max(size, 1)
        metrics: Any = self.means[stage]
        chosen = {k: m for k, m in metrics.items() if self.characters or k != "bits_per_character"}
        for metric in chosen.values():
            metric.update(loss.detach(), size)
        return Scored(loss, chosen, size)

    def answer(self, batch: Any) -> Tensor:
        """Logits (B, T, V), without a memory."""
        return self.model(batch[0])[0]

    def cut(self, batch: Any, count: int) -> Any:
        """The first streams of a batch, without what came before."""
        return batch[0][:count], batch[1][:count], 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer: Any = self.trainer
        super().on_save_checkpoint(checkpoint)
        kept: Any = {k: m for k, m in self._memory.get("train", {}).items() if 0 < k < trainer.num_training_batches}
        if not any(m is not None for m in kept.values()):
            return
        if trainer.world_size > 1:
            kept = self.all_gather(kept)
        checkpoint["memory"] = {"ranks": trainer.world_size, "segments": kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("memory")
        if saved is None:
            return
        if saved["ranks"] != self.trainer.world_size:
            warnings.warn(
                f"The run that is resumed had {saved['ranks']} processes, now there are {self.trainer.world_size}: the "
                "streams of text are others, so their memory starts anew.",
                stacklevel=2,
            )
            return
        kept = saved["segments"]
        if saved["ranks"] > 1:
            kept = _part(kept, self.trainer.global_rank)
        self._memory["train"] = kept


def _part(gathered: Any, rank: int) -> Any:
    """One rank's part of nested containers whose tensors are stacked by rank."""
    if isinstance(gathered, Tensor):
        return gathered[rank]
    if isinstance(gathered, dict):
        return {k: _part(v, rank) for k, v in gathered.items()}
    if isinstance(gathered, (list, tuple)):
        return type(gathered)(_part(v, rank) for v in gathered)
    return gathered
