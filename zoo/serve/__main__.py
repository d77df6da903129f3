"""``python -m zoo.serve``."""

from zoo.serve.command import main

raise SystemExit(main())
