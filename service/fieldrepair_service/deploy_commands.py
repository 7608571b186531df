"""Commands for whoever deploys the parts: bring the case book up to date, ask a part whether it is well."""

from __future__ import annotations

import sys
import time

from pydantic import Field, HttpUrl
from pydantic_settings import CliPositionalArg

from fieldrepair_service.errors import NotWell, StoreUnavailable
from fieldrepair_service.settings import StoreSettings

_PAUSE_SECONDS = 1.0


class MigrateCommand(StoreSettings):
    """Create the case book's tables, or bring an older book's up to date; then stop.

    Every part does so by itself when it opens the book. This is for deployments that want it done, and seen to be done,
    before any part starts. Several may run at once: one migrates, the others find the work done.
    """

    wait_seconds: float = Field(default=60.0, ge=0)
    """How long to wait for a database that does not answer yet."""

    def cli_cmd(self) -> None:
        """Migrate, and say so."""
        deadline = time.monotonic() + self.wait_seconds
        while True:
            problem = _opened(self.case_book_url)
            if problem is None:
                return
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                raise problem
            sys.stderr.write(f"trying again for {deadline - time.monotonic():.0f} s: {problem}\n")
            time.sleep(_PAUSE_SECONDS)


def _opened(url: str) -> StoreUnavailable | None:
    """Open the book once, which migrates it; why its database does not answer, if it does not."""
    from fieldrepair_service.case_book import open_case_book  # here, so that --help is quick

    try:
        with open_case_book(url) as book:
            sys.stdout.write(f"the case book {book.url} is up to date\n")
    except StoreUnavailable as error:
        return error
    return None


class PingCommand(StoreSettings):
    """Ask parts whether they are well: exit status 0 if every address answers 200, else 1 and the reason.

    For health checks of containers, which rarely have curl.
    """

    urls: CliPositionalArg[list[HttpUrl]]
    """Addresses, say http://127.0.0.1:8081/healthz."""
    ping_seconds: float = Field(default=4.0, gt=0)
    """How long each may take to answer."""
    ping_attempts: int = Field(default=1, ge=1)
    """Ask so often, a second apart, before giving up."""

    def cli_cmd(self) -> None:
        """Ask each in turn."""
        for url in map(str, self.urls):
            self._ask_until_well(url)
            sys.stdout.write(f"{url} is well\n")

    def _ask_until_well(self, url: str) -> None:
        for attempt in range(1, self.ping_attempts + 1):
            problem = _problem_of(url, self.ping_seconds)
            if problem is None:
                return
            if attempt == self.ping_attempts:
                raise NotWell(problem)
            time.sleep(_PAUSE_SECONDS)


def _problem_of(url: str, seconds: float) -> str | None:
    """Why the address is not well; None if it is."""
    import httpx  # here, so that --help is quick

    try:
        answer = httpx.get(url, timeout=seconds, trust_env=False)
    except httpx.HTTPError as error:
        return f"{url} does not answer: {error!r}"
    if answer.status_code != 200:
        return f"{url} answered {answer.status_code}, expected 200: {answer.text[:200]}"
    return None
