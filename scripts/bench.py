"""Time training, sampling and evaluation, beside other packages of flows and beside what the hardware allows.

    python scripts/bench.py --quick                                # flows only, less than two minutes on two free cores
    python scripts/bench.py --out bench.json --markdown            # all there is; 25 minutes
    python scripts/bench.py --only train_step --batches 25 --threads 2
    python scripts/bench.py --quick --without zuko

The peers are pip install 'iin[bench]'. How it is measured, and how to read it, stands in docs/performance.md.
"""

from __future__ import annotations

import sys

from bench.command import main

if __name__ == "__main__":
    assert __doc__
    sys.exit(main(description=__doc__))
