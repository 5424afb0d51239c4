"""The heat of a simulated board: it warms up while it works, cools down towards its idle temperature, throttles."""

import math

from benchfarm_agent.boards.simulated_profile import SimulatedHeating


class Heat:
    """One board's temperature over time; seconds are the simulated clock's.

    Newton's law of cooling with a constant rise while it works: dT/dt = rise - (T - idle) / cool.
    """

    def __init__(self, heating: SimulatedHeating, now_s: float) -> None:
        self._heating = heating
        self._at_s = now_s
        self.temperature_c = heating.idle_c
        self.throttle_count = 0
        self._is_throttled = False

    @property
    def clock_share(self) -> float:
        """What is left of the clock: 1 unless the board slows itself down."""
        return self._heating.throttled_clock if self._is_throttled else 1.0

    def pass_to(self, now_s: float, *, busy: bool) -> None:
        """Time has passed up to `now_s`, and the board worked in it or rested."""
        heating = self._heating
        passed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        target_c = heating.idle_c + (heating.rise_c_per_busy_s * heating.cool_s if busy else 0.0)
        left = math.exp(-passed_s / heating.cool_s)
        self.temperature_c = target_c + (self.temperature_c - target_c) * left
        self._judge()

    def _judge(self) -> None:
        heating = self._heating
        if not self._is_throttled and self.temperature_c >= heating.throttle_c:
            self._is_throttled = True
            self.throttle_count += 1
        elif self._is_throttled and self.temperature_c < heating.throttle_c - heating.recover_c:
            self._is_throttled = False
