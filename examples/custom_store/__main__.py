"""A tank whose level is measured and whose pump follows it: `python -m examples.custom_store`.

The levels are kept in a ring buffer, the pump's speed in a device that is down for a while. At the end what the device has
is compared with what the journal says; a difference is printed and the exit code is 1.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from examples.custom_store.mirror import Device, Mirror
from examples.custom_store.ring import Rings
from seqtor import Rejected, Supervisor, Transaction, Trigger

WAIT_S = 30.0


class Measured(Trigger[int]):
    """A level was measured; the result is the speed that the pump is to have."""

    level: float


def make_system(journal: Path, device: Device) -> Supervisor:
    """The stores and the handler."""
    system = Supervisor(journal)
    levels = system.store("levels", Rings.spec(["tank"], size=9, step=5.0))
    pump = system.store("pump", Mirror.spec(device, look_every_s=0.05))

    @system.on(Measured)
    def measured(trigger: Measured, tx: Transaction) -> int:
        tx[levels].append("tank", trigger.level)
        speed = round(float(tx[levels].values("tank").mean()) * 10)
        tx[pump]["speed"] = speed  # Both stores change, or none does.
        return speed

    return system


def main() -> int:
    """Measure while the device is there, while it is down, and while somebody else sets it."""
    device = Device()
    system = make_system(Path(tempfile.mkdtemp()) / "tank.db", device)
    levels, pump = system.stores["levels"], system.stores["pump"]
    with system:
        print("speed", system.ask(Measured(level=3.0), timeout=WAIT_S))
        try:
            system.ask(Measured(level=30.0), timeout=WAIT_S)
        except Rejected as rejected:
            print(f"rejected: {rejected}")
        device.is_down = True
        for level in (4.0, 5.0, 6.0):
            system.ask(Measured(level=level), timeout=WAIT_S)
        print("the device is down, the runs go on: speed", system.snapshot()[pump]["speed"])
        device.is_down = False
        device.change({"valve": 1}, {}, None)
        if not until(lambda: "valve" in system.snapshot()[pump].all()):
            print("the valve was not adopted")
            return 1
        print("levels", [float(level) for level in system.snapshot()[levels].values("tank")])
        settings = system.snapshot()[pump].all()
    found, _ = device.read()
    print("the device has", dict(sorted(found.items())))
    if found != settings:
        print(f"the journal says {settings}")
        return 1
    return 0


def until(done: Callable[[], bool]) -> bool:
    """Wait until it is so; False if that takes too long."""
    waiting = threading.Event()
    for _ in range(1000):
        if done():
            return True
        waiting.wait(0.03)
    return False


if __name__ == "__main__":
    sys.exit(main())
