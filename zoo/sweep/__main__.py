"""``python -m zoo.sweep``."""

from zoo.sweep.command import main

raise SystemExit(main())
