"""What seqtor costs, as figures that can be compared: `python -m benchmarks [FIGURES...]`; README.md explains them."""
