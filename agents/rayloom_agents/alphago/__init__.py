"""AlphaGo and AlphaZero at the scale of one machine: rules, games, tree search, self-play."""
