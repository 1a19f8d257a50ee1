"""The rules of Go over batches of games in flat arrays."""
