"""The control socket: a running system, from other processes."""

from seqtor.control.client import Connection, connect
from seqtor.control.remote import RemoteSubmission

__all__ = ["Connection", "RemoteSubmission", "connect"]
