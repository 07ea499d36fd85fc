"""`python -m benchmarks.peers.alone MODULE:CONTEST FOLDER`: one round of one contender, printed as JSON.

A module of its own, so that the contenders are imported under their names: ZODB and eventsourcing store those of classes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from pkgutil import resolve_name

if __name__ == "__main__":
    print(json.dumps(resolve_name(sys.argv[1]).measure(Path(sys.argv[2]))))
