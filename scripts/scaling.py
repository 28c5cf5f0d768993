"""Measure how the cost of training grows, and estimate it for many GPUs.

    python scripts/scaling.py --out scaling.json --markdown --plot docs/images/scaling.png     # less than six minutes
    python scripts/scaling.py --estimate --markdown                                            # nothing is measured

What the figures mean stands in docs/scaling.md. Measured on processors, with one thread and with two.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Before torch is imported: threads that wait for each other soon fall asleep, as in the commands.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

    from scaling.command import main

    assert __doc__
    sys.exit(main(description=__doc__))
