"""Where files that a configuration, or the command line, names are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from iin.config.reading import ConfigError, nearest, show_path

__all__ = ["find", "names", "resolve_path", "shipped"]

_SUFFIXES = ("", ".yaml", ".yml")


def shipped() -> Path:
    """Folder of the configurations that come with this package, be it installed or a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Names of the configurations that come with this package, sorted: ``mnist_diin``, ``alexnet/conv5``."""
    return sorted(path.relative_to(shipped()).with_suffix("").as_posix() for path in shipped().rglob("*.yaml"))


def find(name: str | Path, *, beside: Path | None = None, search: Sequence[Path] = ()) -> Path:
    """Find a configuration file.

    Args:
        name: a path, with or without ``.yaml``, or the name of a shipped configuration.
        beside: file (or folder) that names it: its folder is looked in first.
        search: folders to look in after the current one, and before the shipped configurations.

    Returns:
        The file's absolute path.

    Raises:
        ConfigError: there is none; one line with the nearest names.
    """
    if not isinstance(name, (str, Path)):
        raise ConfigError(f"{name!r}: expected the name of a configuration file")
    paths = [folder / Path(name).expanduser() for folder in _folders(name, beside, search)] if str(name) else []
    for path in paths:
        for suffix in _SUFFIXES:
            candidate = path.parent / (path.name + suffix)
            if _holds(candidate.is_file):
                return candidate.resolve()
    for path in paths:
        if _holds(path.is_dir):
            inside = ", for instance its config.yaml" if _holds((path / "config.yaml").is_file) else ""
            raise ConfigError(f"{name}: is a folder; expected a configuration file{inside}")
    known = set(names())
    for folder in (Path.cwd(), *search):
        known.update(path.name for path in folder.glob("*.yaml"))
    asked = str(name).removesuffix(".yaml").removesuffix(".yml").removeprefix("configs/")
    # The end of a name in a sub-folder is as good as all of it.
    same = sorted(key for key in known if key.endswith(f"/{Path(asked).name}"))
    hint = f"did you mean {' or '.join(same[:3])}?" if same else nearest(asked, known)
    where = f"beside {show_path(beside)}, " if beside else ""
    raise ConfigError(
        f"{name}: no such configuration file ({where}in the current folder or among the shipped ones); {hint}"
    )


def resolve_path(text: str | Path, beside: Path | None = None, search: Sequence[Path] = ()) -> Path | None:
    """Find a file or folder that a configuration names: beside it, in the current folder, among the shipped ones.

    Args:
        text: absolute, relative, or beginning with ``~``.
        beside: file (or folder) that names it.
        search: folders to look in after the current one.

    Returns:
        Its absolute path, or None where nothing exists by that name.
    """
    for folder in _folders(text, beside, search):
        path = folder / Path(text).expanduser()
        if _holds(path.exists):
            return path.resolve()
    return None


def _folders(name: str | Path, beside: Path | None, search: Sequence[Path]) -> Iterator[Path]:
    if beside is not None:
        yield beside if _holds(beside.is_dir) else beside.parent
    yield Path.cwd()
    yield from search
    yield shipped()
    # The paths that the documentation shows work from every folder.
    if Path(name).parts[:1] == ("configs",):
        yield shipped().parent


def _holds(question: Callable[[], bool]) -> bool:
    """Ask about a path; one that the system refuses to look at counts as absent."""
    try:
        return question()
    except (OSError, ValueError):
        return False
