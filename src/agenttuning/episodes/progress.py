"""How far a run is: a line that moves on a terminal, else a line now and then, or nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable

from agenttuning.episodes import status
from agenttuning.scoring import intervals

REDRAW_S = 0.5  # between two looks at the score, on a terminal
COST = 20  # a look that takes a second is followed by twenty without one: bootstrapping many rewards is slow


class Progress:
    """Shows `name`, the episodes done of `total`, the score so far with its 95 % interval, and how many were lost.

    `metric` is the protocol's: of success_rate the share of won episodes is shown (Wilson), else the mean reward.
    On a terminal tqdm; otherwise a line on stderr every `every_s` seconds; with `shown` False nothing.
    """

    def __init__(self, name: str, total: int, metric: str, shown: bool, every_s: float) -> None:
        self._name, self._total, self._metric, self._every_s = name, total, metric, every_s
        self._rewards: list[float] = []
        self._done = self._lost = 0
        self._lines = shown and not sys.stderr.isatty()
        self._begun, self._next = time.monotonic(), 0.0
        self._said = False
        self._bar = _bar(name, total) if shown and not self._lines else None

    def add(self, records: Iterable[dict]) -> None:
        """Count finished episodes."""
        records = list(records)
        for record in records:
            self._done += 1
            if status.is_result(record["status"]):
                self._rewards.append(record["reward"])
            else:
                self._lost += 1
        if self._bar is not None:
            self._bar.update(len(records))
            begun = time.monotonic()
            if begun >= self._next or self._done == self._total:
                self._bar.set_postfix_str(self.score(), refresh=False)
                now = time.monotonic()
                self._next = now + max(REDRAW_S, COST * (now - begun))

    def score(self) -> str:
        """`success 41.3 % [34.1, 48.9], 2 lost`."""
        lost = f", {self._lost} lost" if self._lost else ""
        if not self._rewards:
            return f"no result yet{lost}"
        if self._metric == "success_rate":
            name, won = "success", sum(reward >= 1.0 for reward in self._rewards)
            value, interval = won / len(self._rewards), intervals.wilson(won, len(self._rewards))
        else:
            name, value = "reward", sum(self._rewards) / len(self._rewards)
            interval = intervals.mean_interval(self._rewards)
        low, high = (100 * end for end in interval)
        return f"{name} {100 * value:.1f} % [{low:.1f}, {high:.1f}]{lost}"

    async def beat(self) -> None:
        """Write a line every `every_s` seconds, where there is no terminal; runs until it is cancelled."""
        while self._lines:
            await asyncio.sleep(self._every_s)
            self._line()

    def close(self) -> None:
        """Leave the terminal's line in its last state; end the lines with one, if there were any."""
        if self._bar is not None:
            self._bar.set_postfix_str(self.score())
            self._bar.close()
        elif self._said:
            self._line()

    def _line(self) -> None:
        self._said = True
        minutes = (time.monotonic() - self._begun) / 60
        text = f"{self._name}: {self._done} of {self._total} episodes, {self.score()}, {minutes:.1f} min"
        print(text, file=sys.stderr, flush=True)


def _bar(name: str, total: int):
    from tqdm import tqdm

    return tqdm(total=total, desc=name, unit="episode")
