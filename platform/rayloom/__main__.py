"""`python -m rayloom` is the command `rayloom`."""

from rayloom.cli.entry import main

raise SystemExit(main())
