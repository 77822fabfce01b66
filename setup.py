"""Computes the package list: each top-level folder is the module `opendllm.<folder>`.

pyproject.toml alone can map folders to packages only one by one, and a list that is kept by hand
forgets the next subpackage (it would work in an editable install and be missing from the wheel).
"""

from setuptools import find_packages, setup

ROOTS = ("core", "plugins", "registries")

setup(
    packages=[
        f"opendllm.{package}"
        for root in ROOTS
        for package in (root, *(f"{root}.{sub}" for sub in find_packages(root)))
    ],
    package_dir={f"opendllm.{root}": root for root in ROOTS},
)
