"""Train a config on the cluster whose head runs this file.

    ray submit configs/cluster/aws.yaml configs/cluster/run.py -- NAME KEY=VALUE ...

`ray submit` copies this one file to the head and runs it there, so that rayloom must be installed on the nodes: the
setup commands of the cluster files beside this one do it. The arguments are those of `rayloom run`.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Without an address rayloom would start a Ray of its own, on the head alone.
    os.environ.setdefault("RAY_ADDRESS", "auto")
    from rayloom.cli.main import main

    raise SystemExit(main(["run", *sys.argv[1:]]))
