"""The stores of `examples/custom_store` pass the suite that every store passes."""

from __future__ import annotations

import math
from typing import Any

from examples.custom_store.mirror import Device, Mirror
from examples.custom_store.ring import Rings
from seqtor.actors import StoreSpec
from seqtor.testing import OutsideStoreContract, StoreContract
from seqtor.testing.stores import KEYS


class TestRings(StoreContract):
    """The newest measurement of each channel."""

    def make_spec(self) -> StoreSpec[Any]:
        return Rings.spec(KEYS, size=4, step=math.inf)

    def read(self, view: Any, key: str) -> int:
        return int(view.values(key)[-1])

    def write(self, view: Any, key: str, value: int) -> None:
        view.append(key, value)

    def read_all(self, view: Any) -> dict[str, int]:
        return {channel: int(value) for channel, value in view.newest().items()}


class TestMirror(OutsideStoreContract):
    """The settings of a device."""

    def make_place(self) -> Device:
        return Device()

    def make_spec_at(self, place: Device) -> StoreSpec[Any]:
        return Mirror.spec(place)

    def found(self, place: Device) -> dict[str, int]:
        return place.read()[0]

    def edit(self, place: Device, key: str, value: int | None) -> None:
        place.change({key: value}, {}, None)

    def read(self, view: Any, key: str) -> int:
        return int(view[key])

    def write(self, view: Any, key: str, value: int) -> None:
        view[key] = value

    def read_all(self, view: Any) -> dict[str, int]:
        return dict(view.all())
