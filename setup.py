"""Thin shim: metadata and tool settings are in pyproject.toml. Only the mapping of configs/ needs code."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["iin", "iin.*"]), "iin.configs"],
    # The shipped configurations travel inside the package, and stay at the top of the repository.
    package_dir={"iin.configs": "configs"},
    package_data={
        "iin.configs": ["*.yaml", "**/*.yaml"],
        "iin.data": ["*.xz", "*.md"],
        "iin.models": ["*.pt"],
    },
)
