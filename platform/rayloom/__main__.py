"""`python -m rayloom` is the command `rayloom`."""

from rayloom.cli import main

raise SystemExit(main())
