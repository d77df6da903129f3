"""Requests that arrive together are one batch: `Batcher`, a thread with a bounded queue."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.hub.answers import Answer
from zoo.hub.failures import OnFailure, ask, at_most
from zoo.hub.inputs import Inputs

POLL = 0.5  # seconds between two looks whether the server ends


class Full(RuntimeError):
    """Raised where as many requests wait as may."""


@dataclass(frozen=True)
class Job:
    """The samples of one request.

    Attributes:
        inputs: what is asked, and how its answers are worded.
        parts: what was read of each sample, all of one shape.
        on_failure: "warn" or "fallback".
        steps: of the solver, at most; None: the model's own.
    """

    inputs: Inputs
    parts: list[tuple[Tensor, ...]]
    on_failure: OnFailure = "warn"
    steps: int | None = None
    future: Future[list[Answer]] = field(default_factory=Future)

    @property
    def key(self) -> tuple[Any, ...]:
        """What jobs of one batch have in common."""
        inputs = self.inputs
        options = (type(inputs), inputs.top, getattr(inputs, "length", None), self.on_failure, self.steps)
        return (*options, *(tuple(x.shape[1:]) for x in self.parts[0]))


class Batcher:
    """Asks a model, in a thread of its own, about the samples of several requests at once.

    Args:
        model: in evaluation mode; it is asked from here alone.
        batch: samples at once, at most.
        wait: seconds that a batch which is not full waits for others.
        waiting: requests that wait, at most.
    """

    def __init__(self, model: nn.Module, *, batch: int = 32, wait: float = 0.004, waiting: int = 128) -> None:
        if batch < 1 or waiting < 1 or wait < 0:
            raise ValueError(
                f"batch and waiting must be at least 1 and wait not negative; got {batch}, {waiting}, {wait}."
            )
        self.model, self.batch, self.wait = model.eval(), batch, wait
        self.jobs: queue.Queue[Job] = queue.Queue(waiting)
        self.left: list[Job] = []  # taken from the queue, but of another kind than the batch that was made
        self.batches = self.samples = 0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self._run, name="zoo-batcher", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End after the batch under way; what waits fails."""
        self.ends.set()
        if self.thread.is_alive():
            self.thread.join(10)
        while not self.jobs.empty():
            self.left.append(self.jobs.get_nowait())
        for job in self.left:
            job.future.set_exception(RuntimeError("The server ends."))

    @property
    def alive(self) -> bool:
        return self.thread.is_alive() and not self.ends.is_set()

    def submit(self, job: Job) -> Future[list[Answer]]:
        """Put a request into the queue.

        Raises:
            Full: as many wait as may.
        """
        try:
            self.jobs.put_nowait(job)
        except queue.Full:
            raise Full(f"{self.jobs.maxsize} requests wait already; try again in a moment.") from None
        return job.future

    def _run(self) -> None:
        while not self.ends.is_set():
            jobs = self._gather()
            if jobs:
                self._answer(jobs)

    def _gather(self) -> list[Job]:
        """The next jobs of one kind, at most as many samples as a batch has."""
        try:
            first = self.left.pop(0) if self.left else self.jobs.get(timeout=POLL)
        except queue.Empty:
            return []
        found, count, end = [first], len(first.parts), time.monotonic() + self.wait
        others = []
        for job in self.left:
            if job.key == first.key and count + len(job.parts) <= self.batch:
                found.append(job)
                count += len(job.parts)
            else:
                others.append(job)
        self.left = others
        while count < self.batch and not self.left:
            try:
                job = self.jobs.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if job.key == first.key and count + len(job.parts) <= self.batch:
                found.append(job)
                count += len(job.parts)
            else:
                self.left.append(job)
        return [job for job in found if job.future.set_running_or_notify_cancel()]

    def _answer(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        first = jobs[0]
        try:
            columns = zip(*(part for job in jobs for part in job.parts), strict=True)
            batch = tuple(torch.cat(parts) for parts in columns)
            with at_most(self.model, first.steps):
                out, solved = ask(self.model, first.inputs.ask, batch, first.on_failure)
            host, row = [x.cpu() for x in out], 0
            self.batches, self.samples = self.batches + 1, self.samples + len(solved)
            for job in jobs:
                answers = []
                for i in range(len(job.parts)):
                    answers.append(job.inputs.answer(tuple(x[row] for x in host), i, solved[row]))
                    row += 1
                job.future.set_result(answers)
        except Exception as error:  # whatever it is, it is the answer of these requests, and the thread goes on
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
