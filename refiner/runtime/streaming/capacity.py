"""How many streams a server takes, and in which words it refuses the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from refiner.arguments import check_number, check_whole
from refiner.ranges import FRAME_RATES, Between

SHARES = Between(0.0, 1.0, above=True)
MOST_CLIENTS = Between(1, 10_000, whole=True)
# After this many refined messages, their cost is known well enough to replace the estimate.
ENOUGH_MESSAGES = 250
# The weight of a new measurement of the cost beside the earlier ones.
NEW = 0.5
# Where more of the last answers were late, the server is slower than the cost says: another program needs its core.
MOST_LATE = 0.05


@dataclass(frozen=True)
class Agreement:
    """What a server promises to its clients.

    Attributes:
        rate: frames per second of each client. What a client sends beyond it has to wait for the others.
        share: of one core, the largest that the streams may take together.
        clients: the number of clients at a time; None takes as many as ``share`` allows.

    Raises:
        UsageError: a number is out of range.
    """

    rate: Annotated[float, FRAME_RATES] = 50.0
    share: Annotated[float, SHARES] = 0.7
    clients: Annotated[int | None, MOST_CLIENTS] = None

    def __post_init__(self) -> None:
        check_number(self.rate, "rate", FRAME_RATES.least, FRAME_RATES.most)
        check_number(self.share, "share", 1e-3, SHARES.most)
        if self.clients is not None:
            check_whole(self.clients, "clients", int(MOST_CLIENTS.least), int(MOST_CLIENTS.most))


class Capacity:
    """The number of streams that fit, from what a message costs.

    The cost is processor time: other programs on the core do not change it. What they do to the clients shows in the
    answers that come late, and these count, too.

    Args:
        agreement: what is promised.
        cost_s: seconds of processor time that a message takes from receipt to answer, measured before the first client
            comes. It is measured again while the server runs.

    Attributes:
        cost_s: the newest measurement.
    """

    def __init__(self, agreement: Agreement, cost_s: float = 0.0) -> None:
        self.agreement, self.cost_s = agreement, cost_s
        self._messages, self._processor_s = 0, 0.0

    @property
    def limit(self) -> int:
        """How many streams it takes. One stream is always taken: alone, it slows nobody else."""
        if self.agreement.clients is not None:
            return self.agreement.clients
        streams = self.agreement.share / max(self.agreement.rate * self.cost_s, 1e-9)
        return int(min(max(streams + 1e-9, 1.0), MOST_CLIENTS.most))

    def took(self, messages: int, processor_s: float) -> None:
        """Note that in some time so many messages were refined, for so many seconds of processor time.

        Errors and openings of streams are in the time but not in the number: they lower the limit, never raise it.
        """
        if messages == 0:
            return
        self._messages += messages
        self._processor_s += processor_s
        if self._messages >= ENOUGH_MESSAGES:
            cost = self._processor_s / self._messages
            self.cost_s = cost if self.cost_s == 0 else (1.0 - NEW) * self.cost_s + NEW * cost
            self._messages, self._processor_s = 0, 0.0

    def refusal(self, streams: int, late: float = 0.0) -> str | None:
        """Why the next client is refused, in at most 123 bytes; None where it is taken.

        Args:
            streams: how many are open.
            late: the share of the last answers that took longer than the time between two frames.
        """
        agreed = self.agreement
        if agreed.clients is not None:
            if streams < agreed.clients:
                return None
            return f"{_count(streams, 'client')} connected; try again later"
        if streams >= self.limit:
            return (
                f"{_count(streams, 'stream', f'at {agreed.rate:g} frames/s')} open; one more would take over "
                f"{100 * agreed.share:g} % of a core; try again later"
            )
        if streams and late > MOST_LATE:
            return (
                f"{_count(streams, 'stream')} open, and {100 * late:.0f} % of the last answers took over "
                f"{1000 / agreed.rate:.0f} ms; try again later"
            )
        return None

    def __str__(self) -> str:
        agreed = self.agreement
        if agreed.clients is not None:
            return f"at most {agreed.clients} clients"
        text = (
            f"at most {self.limit} streams at {agreed.rate:g} frames/s: a frame takes {1000 * self.cost_s:.2f} ms, and "
            f"all together {100 * agreed.share:g} % of a core"
        )
        alone = agreed.rate * self.cost_s
        return text if alone <= agreed.share else f"{text} (one alone takes {100 * alone:.0f} %)"


def _count(number: int, what: str, more: str = "") -> str:
    words = [f"{number} {what}{'' if number == 1 else 's'}", more, "is" if number == 1 else "are"]
    return " ".join(word for word in words if word)
