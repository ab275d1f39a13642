"""Rows of an older commit of this project, measured in the same rounds as the present code."""

import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Protocol

from bench.servers import ROOT, Row


class Figures(Protocol):
    """What is compared of a row's medians."""

    cpu_us: float
    redis_us: float


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def unpack(commit: str, folder: Path) -> tuple[str, Path]:
    """Unpack the commit's files into a new folder within this one; its short name and its folder.

    Its servers run with the installed dependencies of the present code: an older commit that needs other ones does not
    start. Unlike a worktree, an archive leaves no entry in the repository, however the run ends.
    """
    short = _git("rev-parse", "--short", "--verify", f"{commit}^{{commit}}").decode().strip()
    path = folder / f"rollcall-{short}"
    with tarfile.open(fileobj=BytesIO(_git("archive", "--format=tar", short))) as archive:
        archive.extractall(path, filter="data")
    return short, path


def with_older(rows: Sequence[Row], short: str, path: Path) -> list[Row]:
    """Each row of ours is followed by the same row of the older commit, so that both see the machine alike."""
    found = []
    for row in rows:
        found.append(row)
        if row.ours:
            found.append(replace(row, name=f"{row.name}, {short}", directory=path, name_before=row.name))
    return found


def table(rows: Sequence[Row], figures: dict[str, Figures], ratios: dict[str, tuple[float, float]]) -> str:
    """Both commits' medians, and the medians of the ratios of each round (now to before)."""
    lines = [
        "| | CPU µs before | now | ratio | Redis µs before | now | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.name_before:
            before, now, (cpu, redis) = figures[row.name], figures[row.name_before], ratios[row.name]
            lines.append(
                f"| {row.name_before} | {before.cpu_us:.1f} | {now.cpu_us:.1f} | {cpu:.2f} "
                f"| {before.redis_us:.1f} | {now.redis_us:.1f} | {redis:.2f} |"
            )
    return "\n".join(lines)
