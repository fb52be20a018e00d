"""Versions of what a run stands on, and which of them contradict each other."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

from tito._core import __version__

__all__ = ["PACKAGES", "Package", "conflicts", "packages"]

PACKAGES = (
    *("numpy", "pyarrow", "tokenizers", "jinja2", "torch", "transformers", "peft", "trl", "accelerate", "datasets"),
    *("bitsandbytes", "safetensors", "aiohttp", "vllm", "sglang", "verl", "flash-attn", "causal-conv1d"),
    *("flash-linear-attention", "triton"),
)


@dataclass(frozen=True, slots=True)
class Package:
    """One package; `version` None where it is not installed."""

    name: str
    version: str | None
    requires: tuple[str, ...] = ()


def packages() -> list[Package]:
    """The packages that matter here, `tito` and Python first."""
    found = [Package("python", platform.python_version()), Package("tito", __version__)]
    for name in PACKAGES:
        try:
            told = distribution(name)
        except PackageNotFoundError:
            found.append(Package(name, None))
        else:
            found.append(Package(name, told.version, tuple(told.requires or ())))
    return found


def conflicts(found: list[Package]) -> list[str]:
    """Requirements among them that are not met, in words; what an `extra` alone wants does not count. Empty where
    nothing is wrong."""
    try:
        from packaging.markers import default_environment
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.version import Version
    except ImportError:
        return ["conflicts were not looked for: the package packaging is not installed (pip install packaging)"]
    there = {package.name: package.version for package in found if package.version is not None}
    environment = {name: str(value) for name, value in default_environment().items()} | {"extra": ""}
    said = []
    for package in found:
        for text in package.requires:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            have = there.get(wanted.name.lower())
            if have is None or (wanted.marker is not None and not wanted.marker.evaluate(environment)):
                continue
            # A local build (2.13.0+cpu) is the release that it is a build of.
            if not wanted.specifier.contains(Version(have).public, prereleases=True):
                said.append(f"{package.name} {package.version} wants {wanted.name}{wanted.specifier}, not {have}")
    if sys.platform != "win32" and "triton" in there and "+cpu" in there.get("vllm", ""):
        said.append("triton is installed beside vLLM for CPUs, which then does not import: pip uninstall triton")
    return said
