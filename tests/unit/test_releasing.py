"""Releases run soon after an object is collected, in another thread, and never at exit."""

from __future__ import annotations

import gc
import os
import queue
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from pyspark_knn.engine.spark.releasing import when_gone


class Owner:
    pass


def test_another_thread_does_the_work() -> None:
    done: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    owner = Owner()
    owner.itself = owner  # type: ignore[attr-defined] # so that garbage collection has to find it
    release = when_gone(owner, lambda word: done.put((word, threading.get_ident())), "gone")
    assert release.alive
    del owner
    gc.collect()
    word, thread = done.get(timeout=30)
    assert word == "gone"
    assert thread != threading.get_ident()


def test_detached_releases_are_skipped_and_failures_do_not_stop_others() -> None:
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    owners = [Owner() for _ in range(3)]
    when_gone(owners[0], done.put, "detached").detach()
    when_gone(owners[1], {}.__getitem__, "missing")
    when_gone(owners[2], done.put, "last")
    del owners[0], owners[0], owners[0]
    assert done.get(timeout=30) == "last"
    assert done.empty()


def test_no_reference_is_kept() -> None:
    done = threading.Event()
    owner, given = Owner(), Owner()
    seen = weakref.ref(given, lambda _: done.set())
    when_gone(owner, id, given)
    del given, owner
    assert done.wait(30)
    assert seen() is None


def _run(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )


AT_EXIT = """
import gc, sys, time
from pyspark_knn.engine.spark.releasing import when_gone

class Owner: pass

kept, cycle, slow = Owner(), Owner(), Owner()
cycle.itself = cycle
for each in (kept, cycle):
    when_gone(each, print, "too late")
when_gone(slow, time.sleep, 600)
del slow
time.sleep(0.2)
del cycle
"""


def test_python_exits_quickly_and_silently() -> None:
    ended = _run(AT_EXIT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


FORK = """
import os, sys, time
from pyspark_knn.engine.spark.releasing import when_gone

class Owner: pass

parents = Owner()
when_gone(parents, os.write, 1, b"the parent's\\n")
child = os.fork()
if child == 0:
    del parents
    own = Owner()
    when_gone(own, os.write, 1, b"the child's\\n")
    del own
    time.sleep(0.5)
    os._exit(0)
os.waitpid(child, 0)
del parents
time.sleep(0.5)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_releases_nothing_of_its_parent() -> None:
    ended = _run(FORK)
    assert (ended.returncode, ended.stdout) == (0, "the child's\nthe parent's\n"), ended.stderr
