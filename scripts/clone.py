"""Puts the clone that this file lies in first: its package and configs, whether installed or not.

An installed copy keeps the configs inside the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT))
