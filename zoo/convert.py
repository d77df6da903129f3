"""Bring the released checkpoints of DEQ and MDEQ into this package: ``python -m zoo.convert FILE --to DIR``.

The file is read by torch's restricted unpickler only, so that nothing in it can run. The folder that is made holds the
weights as safetensors and a configuration; ``zoo.load(DIR)`` reads it. `zoo.deq.released` says what becomes what.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from zoo.storage.model_folder import CONFIG, WeightsError
from zoo.training.process import prepare

PROG = "zoo.convert"


def parser() -> argparse.ArgumentParser:
    """The options; torch is not imported for them."""
    out = argparse.ArgumentParser(
        prog=f"python -m {PROG}",
        description="Make a model folder from a released checkpoint of MDEQ or of the DEQ transformer.",
        epilog="Sizes are read off the tensors. The other options are for what no tensor tells.",
        allow_abbrev=False,
    )
    out.add_argument("file", metavar="FILE", help="the checkpoint (.pkl, .pth, .pth.tar)")
    out.add_argument("--to", required=True, metavar="DIR", help="the folder to make")
    out.add_argument("--downsample", type=int, metavar="N", help="MDEQ: how often the stem halves the image")
    out.add_argument("--groups", type=int, metavar="N", help="MDEQ: groups of group normalisation (default 8)")
    out.add_argument("--norm-first", action="store_true", help="DEQ transformer: it is the pre-norm one")
    out.add_argument("--memory", type=int, metavar="N", help="DEQ transformer: places to remember (default 300)")
    return out


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 not understood)."""
    given = parser().parse_args(None if argv is None else list(argv))
    prepare()  # before torch is loaded
    from zoo.hub.convert import convert

    try:
        made = convert(
            given.file,
            given.to,
            downsample=given.downsample,
            groups=given.groups,
            norm_first=given.norm_first,
            memory_length=given.memory,
        )
    except WeightsError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 1
    like = "of exactly the published sizes" if made.published else "of sizes that no card has"
    print(f"{made.config.name}: {made.parameters:,} parameters, {like}")
    for name, why in made.assumed.items():
        print(f"  {name} is not in the file: {why}")
    print(f'{made.place / CONFIG} written; load it by zoo.load("{made.place}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
