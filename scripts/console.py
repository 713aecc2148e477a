# SPDX-License-Identifier: GPL-2.0-or-later
# Copyright 2026 the smmuv3-accel authors
"""Messages to the user, in the form of lib.sh."""
from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

# The scripts that this one calls print the time since it began, too.
_started = int(os.environ.setdefault("STARTED", str(int(time.time()))))


def say(text: str) -> None:
    """Prints one line of progress, with the time since the outermost command began."""
    print(f"[{int(time.time()) - _started:4d}s] {text}", file=sys.stderr, flush=True)


def die(text: str) -> NoReturn:
    """Prints one line and exits."""
    sys.exit(f"error: {text}")
