"""A system as a service: signals, systemd, health over HTTP."""

from seqtor.serving.health import Health, HealthServer, address_of
from seqtor.serving.notify import Notifier, Watchdog
from seqtor.serving.probe import Probe
from seqtor.serving.service import Service

__all__ = ["Health", "HealthServer", "Notifier", "Probe", "Service", "Watchdog", "address_of"]
