"""``python -m zoo.compare``."""

from zoo.compare.command import main

raise SystemExit(main())
