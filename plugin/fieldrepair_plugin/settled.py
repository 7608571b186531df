"""What :mod:`.serving` asks of the case book, each with a book of its own: these block, and run in threads."""

from __future__ import annotations

import logging

from fieldrepair_plugin import rolled_back
from fieldrepair_plugin.canary_stage import CanaryEnd
from fieldrepair_plugin.model_uri import ModelTarget
from fieldrepair_plugin.promotion import settle_promotion
from fieldrepair_service.case_book import Trial, open_case_book
from fieldrepair_service.errors import StoreError

logger = logging.getLogger(__name__)


def held_back(case_book_url: str, name: str, version: str, *, canaries: bool) -> Trial | None:
    """See :func:`.rolled_back.held_back`; None if the case book does not answer, for serving goes first."""
    try:
        with open_case_book(case_book_url) as book:
            return rolled_back.held_back(book, name, version, canaries=canaries)
    except StoreError as error:
        logger.warning("whether version %s was a canary is not known: %s", version, error)
        return None


def promotion_settled(case_book_url: str, name: str, version: str, previous: str | None) -> list[str]:
    """See :func:`.promotion.settle_promotion`."""
    with open_case_book(case_book_url) as book:
        return settle_promotion(book, name, version, previous)


def roll_back_settled(case_book_url: str, target: ModelTarget, end: CanaryEnd) -> list[str]:
    """See :func:`.rolled_back.settle_roll_back`."""
    with open_case_book(case_book_url) as book:
        return rolled_back.settle_roll_back(book, target, end.version, end.champion, end.reason, end.trial_id)
