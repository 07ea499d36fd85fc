"""The command line, `seqtor`."""

from seqtor.cli.entry import main

__all__ = ["main"]
