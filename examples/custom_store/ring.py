"""Ring buffers of measurements, one for each channel: numpy arrays as state, and an invariant of its own.

Owns what a channel is: its newest `size` changes, each no further from the one before than `step`. Runs that append to a
channel do not conflict with each other, for an append reads nothing.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import immutables
import numpy
import numpy.typing

from seqtor import Access, Rejected, StoreActor
from seqtor.actors.stores import Checkpoint, Commit, Write

__all__ = ["Rings", "RingsView"]

Array = numpy.typing.NDArray[numpy.float64]


class Channels(NamedTuple):
    """The state: the measurements by channel, and how many are kept of each."""

    rings: immutables.Map[str, Array]
    size: int


class RingsView:
    """The channels as a handler, or the reader of a snapshot, sees them."""

    def __init__(self, access: Access[Channels]) -> None:
        self._access = access

    def append(self, channel: str, value: float) -> None:
        """Add a measurement; the oldest makes room for it. One that is equal to the newest is none."""
        self._access.write(channel, float(value))

    def values(self, channel: str) -> Array:
        """A channel's measurements, the oldest first; not to be changed, numpy refuses it."""
        self._access.read(channel)
        return self._access.state.rings[channel]

    def newest(self) -> dict[str, float]:
        """The newest measurement of each channel."""
        self._access.read_range(None, None)
        return {channel: float(values[-1]) for channel, values in sorted(self._access.state.rings.items())}


class Rings(StoreActor[Channels, RingsView]):
    """Keeps the newest measurements, and refuses one that jumps: `Rings.spec(["level"], size=9, step=5.0)`."""

    dispatcher = "core"  # Nothing in it ever blocks.

    def __init__(self, channels: Sequence[str], size: int, step: float) -> None:
        self._channels = channels
        self._size = size
        self._step = step

    def recover(self, checkpoint: Checkpoint | None) -> Channels:
        if checkpoint is None:
            return Channels(immutables.Map({channel: _frozen([0.0]) for channel in self._channels}), self._size)
        with numpy.load(io.BytesIO(checkpoint.data)) as kept:
            rings = {channel: _frozen(kept[channel]) for channel in kept.files}
        return Channels(immutables.Map(rings), self._size)

    def validate(self, old: Channels, new: Channels, commit: Commit) -> None:
        """The invariant: inside of the commit, on what it has changed, before there is a record."""
        for write in commit.writes:
            jump = float(numpy.abs(numpy.diff(new.rings[write.key])).max(initial=0.0))
            if jump > self._step:
                raise Rejected("the measurement jumps", channel=write.key, by=jump, allowed=self._step)

    def checkpoint(self, state: Channels) -> bytes:
        buffer, rings = io.BytesIO(), cast("Any", dict(state.rings))
        numpy.savez(buffer, **rings)
        return buffer.getvalue()

    @staticmethod
    def fold(state: Channels, writes: Sequence[Write]) -> Channels:
        rings = state.rings
        for channel, value in writes:
            if rings[channel][-1] != value:
                rings = rings.set(channel, _frozen([*rings[channel], value][-state.size :]))
        return state if rings is state.rings else Channels(rings, state.size)  # The same if nothing has changed.

    @staticmethod
    def view(access: Access[Channels]) -> RingsView:
        return RingsView(access)


def _frozen(values: Sequence[float] | Array) -> Array:
    ring = numpy.array(values, dtype=numpy.float64)
    ring.flags.writeable = False
    return ring
