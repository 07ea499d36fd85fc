"""The control socket: a running system, from other processes."""

from seqtor.control.client import Connection, connect
from seqtor.control.remote import RemoteSubmission
from seqtor.control.schedules import RemoteSchedule

__all__ = ["Connection", "RemoteSchedule", "RemoteSubmission", "connect"]
