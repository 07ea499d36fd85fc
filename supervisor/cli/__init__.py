"""The command line, `seqtor`."""
