"""Bring the released checkpoints of DEQ and MDEQ into this package: ``python -m zoo.convert FILE --out DIR``.

The file is read by torch's restricted unpickler only, so that nothing in it can run. The folder that is made holds the
weights as safetensors and a configuration; ``zoo.load(DIR)`` reads it. `zoo.deq.released` says what becomes what.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from zoo.storage.model_folder import CONFIG
from zoo.training.command import CommandParser, command


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    out = CommandParser(
        "zoo.convert",
        "Make a model folder from a released checkpoint of MDEQ or of the DEQ transformer.",
        "Sizes are read off the tensors. The other options are for what no tensor tells.",
        aliases={"--to": "--out"},
    )
    out.add_argument("file", metavar="FILE", help="the checkpoint (.pkl, .pth, .pth.tar)")
    out.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    out.add_argument("--downsample", type=int, metavar="N", help="MDEQ: how often the stem halves the image")
    out.add_argument("--groups", type=int, metavar="N", help="MDEQ: groups of group normalization (default 8)")
    out.add_argument("--norm-first", action="store_true", help="DEQ transformer: it is the pre-norm one")
    out.add_argument("--memory", type=int, metavar="N", help="DEQ transformer: places to remember (default 300)")
    return out


def work(given: argparse.Namespace) -> int:
    """Convert, and say what was made and what had to be assumed."""
    from zoo.hub.convert import convert

    made = convert(
        given.file,
        given.out,
        downsample=given.downsample,
        groups=given.groups,
        norm_first=given.norm_first,
        memory_length=given.memory,
    )
    like = "of exactly the published sizes" if made.published else "of sizes that no card has"
    print(f"{made.config.name}: {made.parameters:,} parameters, {like}")
    for name, why in made.assumed.items():
        print(f"  {name} is not in the file: {why}")
    print(f'{made.place / CONFIG} written; load it by zoo.load("{made.place}")')
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 not understood)."""
    return command(parser(), work, argv)


if __name__ == "__main__":
    raise SystemExit(main())
