"""A small service, and what it takes to run it."""
