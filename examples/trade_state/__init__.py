"""A trading book that cannot be corrupted: checks inside the order, documents that follow from the book alone."""
