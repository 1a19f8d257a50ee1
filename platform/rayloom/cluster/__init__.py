"""Roles in this process or as Ray actors: the same classes, behind the same few calls."""
