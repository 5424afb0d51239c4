"""Lines out of bytes that come in any portions, with limits."""

from collections.abc import Callable


class Lines:
    """Hands over lines without their newlines; `count` have been so far."""

    def __init__(self, on_line: Callable[[bytes], None], *, line_bytes_max: int, lines_max: int) -> None:
        self.count = 0
        self._on_line = on_line
        self._line_bytes_max = line_bytes_max
        self._lines_max = lines_max
        self._begun = b""

    def take(self, data: bytes) -> bool:
        """Whether all that has come so far is within the limits; what comes after a breach is not handed over."""
        *whole, begun = data.split(b"\n")
        if whole:
            whole[0] = self._begun + whole[0]
            self._begun = begun
        else:
            self._begun += begun
        return all(self._pass_on(line) for line in whole) and len(self._begun) <= self._line_bytes_max

    def end(self) -> bool:
        """Hands over a last line that has no newline; like `take`."""
        return not self._begun or self._pass_on(self._begun)

    def _pass_on(self, line: bytes) -> bool:
        if len(line) > self._line_bytes_max or self.count >= self._lines_max:
            return False
        self.count += 1
        self._on_line(line)
        return True
