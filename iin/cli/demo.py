"""``iin-demo``: look at finished runs, in a browser or as files."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from iin.cli.common import run_command

__all__ = ["main"]

EPILOG = """
examples:
  iin-demo -p logs/<run>                              a page in the browser: all that the run can show
  iin-demo -p logs/<run> logs/<other> --list          what several runs can show, with the options of each
  iin-demo -p logs/<run> --demo editor --save out first=3 second=8 digit=0.5
                                                      the same as files, without a browser
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-demo",
        description="Look at finished runs: edit factors, turn latents, see what a layer of a network keeps and throws "
        "away. Opens a page in the browser, or writes pictures, videos and figures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-p", "--project", nargs="+", required=True, metavar="RUN", help="runs: their folders, or their config.yaml"
    )
    parser.add_argument("--list", action="store_true", help="print what the runs can show, and with which options")
    parser.add_argument("--demo", metavar="NAME", help="show this one only, and write it: see --save")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where --demo writes PNG, WebP, MP4 and JSON files")
    parser.add_argument("--port", type=int, default=8501, metavar="N", help="of the page (default: 8501)")
    parser.add_argument(
        "--host",
        default="localhost",
        metavar="NAME",
        help="address to listen at (default: localhost, this machine alone); 0.0.0.0 lets others in",
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser, only print the page's address")
    parser.add_argument("options", nargs="*", metavar="option=value", help="of --demo; --list tells which there are")
    parser.add_argument(
        "--allow",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="let configurations name targets of this package or module too; a guard, not a sandbox",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and results only")
    arguments = parser.parse_intermixed_args(argv)
    arguments.logs = None
    paths, given = list(arguments.project), list(arguments.options)
    # Options may stand anywhere, also right behind the runs.
    given += [word for word in paths if "=" in word and not Path(word).exists()]
    paths = [word for word in paths if word not in given]
    if bool(arguments.demo) != bool(arguments.save):
        parser.error("--demo NAME and --save FOLDER go together")
    if not paths:
        parser.error("-p names runs; only options were given")
    if given and not arguments.demo:
        parser.error(f"{given[0]}: options are for --demo NAME; on the page they are chosen there")
    if wrong := [word for word in given if "=" not in word]:
        parser.error(f"{wrong[0]}: expected option=value; runs stand behind -p")

    def command() -> None:
        page = not (arguments.list or arguments.demo)
        quiet = arguments.quiet or not page
        if page:
            _check_page(arguments.host, arguments.port)
        if arguments.save and arguments.save.exists() and not arguments.save.is_dir():
            raise ValueError(f"--save: {arguments.save} is a file; name a folder")

        from iin.demo import files, runs

        exhibits = runs.open_runs(paths, allow=arguments.allow, say=_say(quiet))
        if page:
            from iin.demo.page import serve

            serve(exhibits, host=arguments.host, port=arguments.port, started=lambda: _started(arguments))
            return
        demos = runs.gallery(exhibits)
        if arguments.list:
            print("\n".join(line for demo in demos for line in runs.describe(demo)))
            return
        demo = runs.find(demos, arguments.demo)
        values = runs.chosen(demo, dict(word.split("=", 1) for word in given))
        with _bar(arguments.quiet) as tell:
            shown = runs.make(demo, values, tell)
        for line in shown.lines:
            print(line)
        for path in files.save(arguments.save, demo, values, shown):
            print(f"Saved: {path}")

    return run_command(command, arguments, "iin.cli.demo", sys.argv[1:] if argv is None else argv)


def _say(quiet: bool) -> Callable[[str], None]:
    """Tells which runs are opened."""
    return (lambda _: None) if quiet else (lambda folder: print(f"Opened: {folder}", flush=True))


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A progress bar, which appears when work takes a while."""
    from tqdm import tqdm

    with tqdm(total=100, delay=1, leave=False, disable=True if quiet else None, bar_format="{desc} {bar}") as bar:

        def tell(share: float, what: str) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update(round(100 * share) - bar.n)

        yield tell


def _check_page(host: str, port: int) -> None:
    """See that a page can be served, before runs are opened.

    Raises:
        ValueError: the packages are not here.
        OSError: nothing can listen there.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise ValueError(
            "the page needs the package streamlit; install it: pip install 'iin[demo]' "
            "(or write files without it: --demo NAME --save FOLDER)"
        )
    if not 1 <= port <= 65535:
        raise ValueError(f"--port: expected a number from 1 to 65535, found {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"--host: {host} is no address of this machine ({error.strerror})") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OSError(
                f"port {port} of {host} cannot be used ({error.strerror}); choose another: --port {port % 65535 + 1}"
            ) from error


def _started(arguments: argparse.Namespace) -> None:
    """Tell the page's address, and open a browser there, as soon as the server answers."""
    shown = "localhost" if arguments.host in ("0.0.0.0", "::") else arguments.host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{arguments.port}"

    def wait() -> None:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection((shown, arguments.port), 1):
                break
            time.sleep(0.1)
        else:
            return
        print(f"Demo: {address} (Ctrl-C ends it)", flush=True)
        if not arguments.no_browser:
            webbrowser.open(address)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
