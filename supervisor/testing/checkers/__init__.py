"""Checkers: they watch a system, simulated or real, and say in sentences what does not hold."""

from seqtor.testing.checkers.evidence import Violation
from seqtor.testing.checkers.watch import CHECKERS, Violated, Watch, watch

__all__ = ["CHECKERS", "Violated", "Violation", "Watch", "watch"]
