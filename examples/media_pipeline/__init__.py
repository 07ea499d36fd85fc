"""A media pipeline: feeds that are read at certain times and on request, and what reactions make of their articles."""
