"""Speed of the rules of Go: random steps, legal masks and planes per second of CPU time on 9x9.

    python tests/benchmarks/go_speed.py [GAMES]

Target: at least 0.8 million random steps a second. Nothing is asserted; people read the numbers.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from rayloom_agents.alphago.games import Go
from rayloom_agents.alphago.go import playouts


def main() -> None:
    """Print the rates; what is compiled has been called once before."""
    games, game = int(sys.argv[1]) if len(sys.argv) > 1 else 4000, Go(9)
    for count in (1, games):
        state = game.start(count)
        begin = time.process_time()
        steps = playouts.play_at_random(state, 1, 1000)
        random_s = time.process_time() - begin
        state = game.start(count)
        playouts.play_at_random(state, 2, 60)
        begin = time.process_time()
        game.legal(state)
        legal_s, begin = time.process_time() - begin, time.process_time()
        planes = game.observe(state)
        planes_s = time.process_time() - begin
    print(f"random steps/s {steps / random_s:,.0f}   legal masks/s {games / legal_s:,.0f}   ", end="")
    print(f"planes/s {len(planes) / planes_s:,.0f}   bytes/game {sum(np.asarray(a).nbytes for a in state) // games:,}")


if __name__ == "__main__":
    main()
