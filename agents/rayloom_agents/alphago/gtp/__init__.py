"""The Go Text Protocol, version 2 (Farnebäck 2002): a server for our players, and a client of other engines."""
