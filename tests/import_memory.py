"""Imports a trace file in a process of its own and prints its peak memory: `import_memory.py HOME`.

In: HOME of a `ScriptedRun` without a teacher, whose `traces.jsonl` is there. Out: one JSON object.
"""

import json
import resource
import sys
import time
from pathlib import Path
from unittest.mock import patch

from tests.scripted_run import PAGE, Watch, run_recipe, unsynced

if __name__ == "__main__":
    started = time.monotonic()
    after: dict[str, int] = {}

    class Told(Watch):
        """Notes the peak when the import ends."""

        def end(self, stage: str, line: str) -> None:
            super().end(stage, line)
            after.setdefault(stage, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    with unsynced(), patch(PAGE, lambda view: "no charts"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        watch = Told()
        try:
            run_recipe(Path(sys.argv[1]), [], "sample", watch)
        finally:
            seconds = time.monotonic() - started
            told = {"before_kib": before, "peak_kib": after, "seconds": seconds}
            print(json.dumps(told | {"line": watch.lines.get("import")}))
