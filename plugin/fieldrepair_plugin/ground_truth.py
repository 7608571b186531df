"""Right answers that the business sent for field inputs: what is known is not asked, or no longer asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fieldrepair_plugin.field_pool import Key
from fieldrepair_service.case_book import GROUND_TRUTH, Case, CaseBook
from fieldrepair_service.case_book.planning import KNOWN_BY
from fieldrepair_service.errors import AlreadyLabelled, CaseNotAnnotating, RowsNotFound
from fieldrepair_service.field_log import FieldLog

logger = logging.getLogger(__name__)


def known_labels(book: CaseBook, log: FieldLog, keys: Sequence[Key], class_names: Sequence[str]) -> dict[Key, int]:
    """Class indices of those field inputs whose right answer is known.

    Args:
        book: has the answers, by client request id and row.
        log: says which client request id a field input came with.
        keys: (request_id, row) of field inputs that are in the log.
        class_names: the classes; an answer that names none of them is passed over, with a warning that counts them.

    Raises:
        StoreError: a store does not answer.
    """
    if not keys or book.ground_truth_count() == 0:
        return {}
    ids = log.read_rows(keys, columns=["client_request_id"]).to_table().column("client_request_id").to_pylist()
    found = book.ground_truth({name for name in ids if name is not None})
    index = {name: number for number, name in enumerate(class_names)}
    known: dict[Key, int] = {}
    strange: list[str] = []
    for key, name in zip(keys, ids, strict=True):
        truth = None if name is None else found.get((name, key[1]))
        if truth is None:
            continue
        if truth.label in index:
            known[key] = index[truth.label]
        else:
            strange.append(truth.label)
    if strange:
        logger.warning("ground truth of %d field inputs names no class of the model, %r say", len(strange), strange[0])
    return known


def settle_known(book: CaseBook, log: FieldLog, case: Case) -> int:
    """Label the questions of a planned case whose right answer has arrived since; says how many.

    Questions that were skipped get their label as well. One that a labeller answers at the same moment keeps that
    answer, as those keep theirs that were answered before.

    Raises:
        StoreError: a store does not answer.
    """
    asked = {(task.request_id, task.row): task for task in book.tasks(case.id, attempt=case.attempt)}
    waiting = {key: task for key, task in asked.items() if task.label is None}
    try:
        known = known_labels(book, log, list(waiting), case.class_names)
    except RowsNotFound as error:  # some are older than the log keeps; the others still count
        gone = set(error.missing)
        known = known_labels(book, log, [key for key in waiting if key not in gone], case.class_names)
    settled = 0
    for key, label in known.items():
        try:
            book.submit(waiting[key].id, label, KNOWN_BY, source=GROUND_TRUTH, role="worker")
            settled += 1
        except AlreadyLabelled as error:  # noqa: PERF203  (each has its own answer)
            logger.info("case %d: ground truth came too late: %s", case.id, error)
        except CaseNotAnnotating:
            break
    if settled:
        logger.info("case %d: %d questions are answered by ground truth", case.id, settled)
    return settled
