"""The journal: the durable log of accepted triggers and commits, the only source of truth."""
