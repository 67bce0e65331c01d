"""``python -m vlarig.harness`` is ``vlarig``."""

from .cli import main

raise SystemExit(main())
