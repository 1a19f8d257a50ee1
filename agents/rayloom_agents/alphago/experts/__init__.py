"""Games of experts: records in SGF, games of a Go program against itself, positions to learn from."""
