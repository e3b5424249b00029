"""Passive health: an endpoint that fails real requests is ejected for a while, and one request decides its return.

in service --failures in a row--> ejected --time passes--> half-open --trial succeeds--> in service
                                     ^                          |
                                     +------- trial fails ------+   for longer
"""

from __future__ import annotations

import math

from gateway.upstream.settings import OutlierSettings

FAILURE_STATUSES = frozenset([502, 503, 504])
"""Answers that a server gives in the place of one that is gone or full: they count against an endpoint."""


class Ejection:
    """Where one endpoint stands; monotonic times in seconds."""

    __slots__ = ("count", "failed_at", "failures", "half_open", "returned_at", "total", "trial_since", "until")

    def __init__(self) -> None:
        self.until: float | None = None
        """End of the ejection; None while in service."""
        self.half_open = False
        """Whether the time is over and a trial is due or under way."""
        self.trial_since: float | None = None
        self.count = 0
        """Ejections that still lengthen the next one."""
        self.total = 0
        """Ejections, all told."""
        self.returned_at = 0.0
        self.failures = 0
        """Failures in a row: since the last success, and with no interval between two of them that had none."""
        self.failed_at = 0.0

    @property
    def lets_in(self) -> bool:
        """Whether a request may go to the endpoint now."""
        return self.until is None or (self.half_open and self.trial_since is None)

    def begin_trial(self, now: float) -> None:
        """The one request that decides is on its way."""
        self.trial_since = now

    def clear(self) -> None:
        """Forget everything."""
        self.until = self.trial_since = None
        self.half_open = False
        self.count = 0
        self.failures = 0


class OutlierDetector:
    """Judges endpoints by the results of their requests. Methods that change ``Ejection.lets_in`` return True."""

    def __init__(self, settings: OutlierSettings) -> None:
        self.settings = settings

    def succeeded(self, ejection: Ejection, now: float) -> bool:
        """Take note of a success; a half-open endpoint is back."""
        ejection.failures = 0
        if not ejection.half_open:
            return False
        ejection.until = ejection.trial_since = None
        ejection.half_open = False
        ejection.returned_at = now
        return True

    def failed(self, ejection: Ejection, now: float, *, may_eject: bool) -> bool:
        """Take note of a failure; ``may_eject`` says whether the upstream can spare the endpoint."""
        if ejection.half_open:
            self._eject(ejection, now)
            return True
        if ejection.until is not None:
            return False
        # However long each of them took to fail: one that hangs does so slowly.
        is_in_a_row = now - ejection.failed_at <= self.settings.interval_s
        ejection.failures = ejection.failures + 1 if is_in_a_row else 1
        ejection.failed_at = now
        if not may_eject or ejection.failures < self.settings.failures:
            return False
        self._eject(ejection, now)
        return True

    def allowed(self, endpoints: int) -> int:
        """How many of that many endpoints may be ejected at once."""
        return math.floor(self.settings.max_ejected * endpoints + 1e-9)

    def advance(self, ejection: Ejection, now: float, in_flight: int) -> bool:
        """Open the door for a trial when the time is over, or when the last trial ended without a result."""
        if ejection.until is None:
            return False
        if not ejection.half_open:
            if now < ejection.until:
                return False
            ejection.half_open = True
            return True
        since = ejection.trial_since
        # A client that leaves proves nothing; a trial that never ends must not keep the endpoint out for ever.
        if since is None or (in_flight and now - since < self.settings.ejection_s):
            return False
        ejection.trial_since = None
        return True

    def _eject(self, ejection: Ejection, now: float) -> None:
        settings = self.settings
        if ejection.until is None and ejection.count:
            # Each stretch in service as long as the first ejection takes one past ejection back.
            ejection.count = max(0, ejection.count - int((now - ejection.returned_at) / settings.ejection_s))
        # The exponent is bounded: 2 ** count would outgrow a float.
        length_s = min(settings.max_ejection_s, settings.ejection_s * 2.0 ** min(ejection.count, 60))
        if length_s < settings.max_ejection_s:
            ejection.count += 1
        ejection.total += 1
        ejection.until = now + length_s
        ejection.half_open = False
        ejection.trial_since = None
        ejection.failures = 0
