"""The same durable work on other libraries: `make bench-peers`."""
