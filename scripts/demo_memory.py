"""How much memory the page of ``iin-demo`` takes, over many interactions of a real browser.

    python scripts/demo_memory.py logs/<run> [logs/<other> ...]
    python scripts/demo_memory.py logs/<run> --interactions 300 --limit 4

Starts the page of the given runs, and turns pages, moves sliders, draws other seeds and uploads pictures, one after the
other. Prints the server's resident memory now and then, and its peak at the end; the exit code is 1 if that is above
the limit, or if a page showed an error. Needs the package playwright, and Chromium.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GIGA = 1 << 30


def resident(process: int, peak: bool = False) -> int:
    """Bytes of memory that a process has, or had at most."""
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) << 10 if found else 0


def serve(runs: list[str], allow: list[str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start the page; the process, and its address once it answers."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    words = ["-p", *runs, "--port", str(port), "--no-browser", "-q", *(w for name in allow for w in ("--allow", name))]
    process = subprocess.Popen([sys.executable, "-m", "iin.cli.demo", *words])
    address = f"http://localhost:{port}/"
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}_stcore/health", timeout=1):
                return process, address
        except OSError:
            time.sleep(0.2)
    sys.exit(process.returncode)


def settle(page: Any) -> None:
    page.wait_for_timeout(200)
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=600_000)


def turn(page: Any, number: int) -> int:
    """Turn to a page by its place in the list; how many there are."""
    page.get_by_role("combobox", name="Page").click()
    entries = page.get_by_role("option")
    entries.first.wait_for()
    count = entries.count()
    entries.nth(number % count).click()
    return count


def interact(page: Any, number: int, chance: random.Random, folder: Path) -> None:
    """One interaction: every fifth turns to the next page; in between, what that page has."""
    sliders = page.get_by_test_id("stSidebar").get_by_role("slider")
    uploads = page.locator('[data-testid="stFileUploaderDropzoneInput"]')
    kind = number % 5
    if kind == 0 or not sliders.count():  # the gallery has none
        turn(page, 1 + number // 5)
    elif kind == 3 and uploads.count():
        # 20 million pixels, as cameras have: what is decoded is a hundred times as large as what a run works with.
        path = folder / f"{number}.jpg"
        level = np.linspace(0, 255, 5000, dtype=np.uint8)
        Image.fromarray(np.tile(np.roll(level, 50 * number), (4000, 1))).convert("RGB").save(path)
        uploads.first.set_input_files(path)
    else:
        slider = sliders.nth(chance.randrange(sliders.count()))
        slider.focus()
        for _ in range(chance.randint(1, 5)):
            slider.press(chance.choice(["ArrowRight", "ArrowLeft", "PageUp"]))
    settle(page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--interactions", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--limit", type=float, default=2.0, metavar="GB", help="the most that is allowed; default: 2")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="as of iin-demo")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("error: no Chromium here (apt-get install chromium)", file=sys.stderr)
        return 2
    process, address = serve(arguments.runs, arguments.allow)
    chance, errors = random.Random(0), 0
    try:
        with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
            browser = driver.chromium.launch(
                executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(address)
            page.wait_for_selector('[data-testid="stImage"] img')
            settle(page)
            print(f"opened: {resident(process.pid) / GIGA:.2f} GB", flush=True)
            for number in range(arguments.interactions):
                interact(page, number, chance, Path(folder))
                for said in page.locator('[data-testid="stAlert"], [data-testid="stException"]').all_inner_texts():
                    errors += 1
                    print(f"{page.url}: {said}")
                if number % 10 == 9:
                    print(f"{number + 1} interactions: {resident(process.pid) / GIGA:.2f} GB", flush=True)
            browser.close()
        peak = resident(process.pid, peak=True) / GIGA
    finally:
        process.terminate()
        process.wait(60)
    print(f"peak: {peak:.2f} GB of {arguments.limit:g} GB, {errors} errors")
    return int(peak > arguments.limit or errors > 0)


if __name__ == "__main__":
    sys.exit(main())
