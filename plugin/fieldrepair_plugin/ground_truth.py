"""Right answers that the business sent for field inputs: what is known is not asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fieldrepair_plugin.field_pool import Key
from fieldrepair_service.case_book import CaseBook
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
