"""Which parts of AlphaGo make it strong: each set of parts with tree search against one and the same opponent.

The published table (Silver et al. 2016, extended data table 7) has an Elo rating for each set; here it is the score
against the policy's likeliest moves, without search, with its 95 % interval. All sets search equally often.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Figure,
    Findings,
    Metric,
    UserError,
)
from rayloom_agents.alphago.alphago_player import AlphaGo
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.matches import Player, play_match, wilson_interval
from rayloom_agents.alphago.search import SearchSettings

VARIANTS = {
    "policy_value_rollouts": (True, True, True),
    "policy_value": (True, True, False),
    "policy_rollouts": (True, False, True),
    "value_rollouts": (False, True, True),
    "value": (False, True, False),
    "rollouts": (False, False, True),
    "policy": (True, False, False),
}
"""Names of the sets: policy as the prior (else all moves alike), value network, rollouts. The policy alone searches,
too, for ends of games."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig(EvaluationConfig):
    """Settings of the ablation."""

    games: Annotated[int, Ge(2)] = 200
    """Games of each set of parts."""
    search: SearchSettings = field(default_factory=lambda: SearchSettings(simulations=100))
    """The tree search of all of them."""
    opening_plies: Annotated[int, Ge(0)] = 2
    """Random plies with which a pair of games begins."""
    komi: float = 7.5
    """Points that White gets."""


class Ablation(Evaluation):
    """Plays every set of parts of `AlphaGo` against the policy without search."""

    Config = AblationConfig
    metrics: ClassVar = {
        f"{kind}{name}": Metric(better="max", meaning=meaning)
        for name in VARIANTS
        for kind, meaning in (
            ("score_", "1 for a win against the policy without search"),
            ("score_low_", "lower end of the score's 95 % interval"),
        )
    }

    def __init__(self, config: AblationConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        size = getattr(context.source, "size", None)
        if size is None:
            raise UserError(
                "evaluate.import: Ablation needs a source of expert games; set source.import to "
                "rayloom_agents.alphago.experts.source:ExpertGames"
            )
        self.game = Go(size, config.komi)

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Play the matches, one set after the other."""
        if not isinstance(policy, AlphaGo):
            raise UserError(f"evaluate.import: Ablation takes AlphaGo apart, not {type(policy).__name__}")
        config: AblationConfig = self.config
        games = 2 * ((budget.count or config.games) // 2) or 2
        metrics: dict[str, float] = {}
        rows: list[list[float]] = []
        for name, parts in VARIANTS.items():
            ours = Player(self.game, games, policy.variant(*parts), config.search)
            theirs = Player(self.game, games, policy.variant(True, False, False), None)
            outcomes, _ = play_match(self.game, (ours, theirs), games, config.opening_plies, seed, budget)
            score = float((outcomes + 1).mean() / 2)
            low, high = wilson_interval(score, games)
            metrics |= {f"score_{name}": score, f"score_low_{name}": low}
            rows.append([score, low, high])
        table = Figure("table", torch.tensor(rows), labels=tuple(VARIANTS), column_labels=("score", "low", "high"))
        return Findings(metrics, {"ablation": table})
