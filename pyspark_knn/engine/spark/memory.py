"""The free memory of the driver."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def available_memory() -> int | None:
    """Return the bytes that this process could still allocate; None if there is no /proc."""
    bounds = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                bounds.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            bounds.append(int(limit) - int((group / "memory.current").read_text()))
    except OSError:
        logger.debug("cannot determine the free memory", exc_info=True)
    return min(bounds, default=None)
