"""MD4's mapping of a schedule away from 0 and 1."""

from __future__ import annotations

from torch import Tensor

from opendllm.plugins.noise_schedules import MappableOptions
from opendllm.registries.noise_schedules import NoiseSchedule


class MappedSchedule(NoiseSchedule):
    """alpha = (1 - 2 eps) alpha~ + eps (MD4, arXiv:2406.04329, appendix).

    Its NELBO has (1 - alpha(0)) log V more a token: the data is never seen quite clean.
    """

    def __init__(self, schedule: NoiseSchedule, eps: float) -> None:
        self._schedule = schedule
        self._eps = eps
        self.interval = schedule.interval

    @property
    def ends(self) -> tuple[float, float]:
        """The inner schedule's ends, mapped."""
        first, last = self._schedule.ends
        return (1 - 2 * self._eps) * first + self._eps, (1 - 2 * self._eps) * last + self._eps

    def alpha(self, t: Tensor) -> Tensor:
        """The inner schedule's, mapped."""
        return (1 - 2 * self._eps) * self._schedule.alpha(t) + self._eps

    def alpha_prime(self, t: Tensor) -> Tensor:
        """The inner schedule's, scaled."""
        return (1 - 2 * self._eps) * self._schedule.alpha_prime(t)


def mapped(schedule: NoiseSchedule, options: MappableOptions) -> NoiseSchedule:
    """The schedule as its options say: itself where eps is 0, and with their destination."""
    found = MappedSchedule(schedule, options.eps) if options.eps else schedule
    found.destination = options.destination
    return found
