"""pass@k: the chance that one of k samples passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from opendllm.core.scoring.scores_by_setting import TaskValues


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate from `samples` samples of a task of which `passed` passed.

    1 - C(n - c, k) / C(n, k) as a product that neither overflows nor cancels (Chen et al. 2021,
    arXiv:2107.03374, eq. 1 and figure 3).

    Raises:
        ValueError: k is not within 1..samples, or `passed` not within 0..samples.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} out of {samples}: needs 1 <= k <= n and 0 <= c <= n")
    if samples - passed < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(samples - passed + 1, samples + 1)))


def pass_at_k_by_task(verdicts: Mapping[str, Sequence[bool]], ks: Sequence[int]) -> dict[str, TaskValues]:
    """pass@k of each task, for every k that all tasks have samples enough for.

    Args:
        verdicts: task id -> whether each of its samples passed.
        ks: the wished for values of k.

    Returns:
        "pass@k" -> task id -> estimate; and "passed" -> task id -> whether any sample passed.
    """
    least = min((len(samples) for samples in verdicts.values()), default=0)
    by_task: dict[str, TaskValues] = {
        f"pass@{k}": {task: pass_at_k(len(found), sum(found), k) for task, found in verdicts.items()}
        for k in ks
        if k <= least
    }
    return {**by_task, "passed": {task: any(found) for task, found in verdicts.items()}}
