"""Histories of a whole system, each from one integer."""
