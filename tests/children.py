"""A process's children by psutil, any of which may end while it is looked at."""

import psutil


def started_with(process: psutil.Process, word: str) -> list[psutil.Process]:
    """Children, and theirs, whose command line holds `word`; without those that have ended."""
    found = []
    for child in process.children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.NoSuchProcess:  # a zombie is one, too
            continue
        if any(word in part for part in command):
            found.append(child)
    return found


def by_rank(process: psutil.Process) -> dict[str, psutil.Process]:
    """The ranks among its children."""
    found = {}
    for child in process.children():
        try:
            rank = child.environ().get("RANK")
        except psutil.NoSuchProcess:
            continue
        if rank:
            found[rank] = child
    return found


def runs(process: psutil.Process) -> bool:
    """Whether it is there and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
