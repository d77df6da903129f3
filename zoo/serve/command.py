"""The command line of the server. Names are checked, and ``--help`` answered, without torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib.util import find_spec

from zoo.registry import UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.training.command import FAILURES, CommandParser, command

EPILOG = """\
addresses:
  GET  /         a page to draw a digit, drop a picture, write a prompt or type a Sudoku
  GET  /health   whether it answers, and how full its queue is
  GET  /about    the model, its kind, its classes, its solver
  POST /predict  a picture as the body (image/png, image/jpeg, ...), a form with a file, or JSON:
                 {"input": [[0, 0.5], ...], "max_steps": 10, "on_failure": "fallback", "top": 3}

example:
  curl -s --data-binary @two.png -H 'content-type: image/png' 'localhost:8000/predict?max_steps=20'"""


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    out = CommandParser(
        "zoo.serve",
        "Answer for a trained model over HTTP.",
        EPILOG,
        aliases={"--ckpt": "--model", "--queue": "--waiting"},
    )
    out.add_argument("--model", required=True, metavar="NAME", help="NAME.DATA, a run folder, a model folder, hf-hub:")
    out.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)")
    out.add_argument("--port", type=int, default=8000, metavar="N", help="port (default 8000)")
    out.add_argument("--batch", type=int, default=32, metavar="N", help="samples of a batch, at most (default 32)")
    out.add_argument("--wait", type=float, default=4.0, metavar="MS", help="that a batch waits for others (default 4)")
    out.add_argument("--waiting", type=int, default=128, metavar="N", help="requests that wait, at most (default 128)")
    out.add_argument("--body", type=float, default=8.0, metavar="MB", help="of one request, at most (default 8)")
    out.add_argument("--timeout", type=float, default=60.0, metavar="S", help="for one answer (default 60)")
    out.add_argument("--solver", metavar="NAME", help="another solver than the model was trained with")
    out.add_argument("--max-steps", type=int, metavar="N", help="that a request may ask for (default 8 times its own)")
    out.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, mps")
    return out


def work(given: argparse.Namespace) -> int:
    """Load the model, and serve until Ctrl-C."""
    if given.solver and given.solver not in SOLVERS:
        raise UnknownName(unknown("solver", given.solver, SOLVERS.names()))
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise ImportError(f"Serving needs the package {name}: pip install 'implicit-zoo[serve]'.")
    import uvicorn

    from zoo.hub.pretrained import load
    from zoo.serve.app import Limits, build

    limits = Limits(
        batch=given.batch,
        wait=given.wait / 1000,
        waiting=given.waiting,
        body=int(given.body * 2**20),
        timeout=given.timeout,
        steps=given.max_steps,
    )
    app = build(load(given.model, solver=given.solver).to(given.device), limits)
    print(f"{given.model} answers at http://{given.host}:{given.port}; Ctrl-C ends it", flush=True)
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning", access_log=False, server_header=False)
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(parser(), work, argv, failures=(*FAILURES, RuntimeError))
