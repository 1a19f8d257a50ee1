"""`python -m rayloom` is the command `rayloom`."""

from rayloom.cli.main import main

raise SystemExit(main())
