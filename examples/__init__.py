"""Programs that show seqtor at work; examples/README.md lists them."""
