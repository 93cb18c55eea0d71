"""What a gateway process does about memory, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FAULTS = """
import resource
{prepare}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
parts = [bytes(200_000) for _ in range(20)]
del parts
before = faults()
for _ in range(50):
    parts = [bytes(200_000) for _ in range(20)]
    del parts
print(faults() - before)
"""


def faults(prepare: str) -> int:
    """Pages that the kernel had to give to a process that makes and frees the same large objects again and again."""
    script = FAULTS.format(prepare=prepare)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_pages_of_what_is_freed_are_not_taken_again() -> None:
    keeping = faults("from gateway.memory import keep_freed_pages; keep_freed_pages()")
    assert keeping < faults("") / 10


def test_the_collector_is_seldom_run_and_passes_over_what_is_imported() -> None:
    script = (
        "import gc\nfrom gateway.memory import COLLECT_EVERY, spare_the_collector\n"
        "spare_the_collector()\nassert gc.get_threshold()[0] == COLLECT_EVERY\nassert gc.get_freeze_count() > 1000\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
