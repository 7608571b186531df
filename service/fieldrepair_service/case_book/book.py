"""The case book as one object, and how to open it."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self

from fieldrepair_service.case_book.approvals import Approvals
from fieldrepair_service.case_book.audit import Audit
from fieldrepair_service.case_book.database import Clock, Database, create_book_engine, now_ms
from fieldrepair_service.case_book.evidence import Evidence
from fieldrepair_service.case_book.ground_truth import GroundTruths
from fieldrepair_service.case_book.importing import Importing
from fieldrepair_service.case_book.outbox import Outbox
from fieldrepair_service.case_book.planning import Plans
from fieldrepair_service.case_book.schema import bring_up_to_date
from fieldrepair_service.case_book.streams import Streams
from fieldrepair_service.case_book.trials import Trials


class CaseBook(Streams, Outbox, Plans, Importing, Evidence, GroundTruths, Audit, Approvals, Trials):
    """Everything small and transactional: windows, drift events, repair cases, labelling tasks and their answers,
    ground truth, attachments, notifications, trials of candidates and the audit trail.

    Safe to share between threads; each process opens its own. Made by :func:`open_case_book`. A context manager
    that closes itself. Every method is one transaction, and raises ``StoreUnavailable`` when the database does
    not answer.
    """

    @property
    def url(self) -> str:
        """Where it lives, without a password."""
        return self._database.engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_case_book(url: str, migrate: bool = True, *, clock: Clock = now_ms) -> CaseBook:
    """Open a case book; with ``migrate``, create it or bring an older one up to date.

    Several processes may do this at once.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``.
        migrate: False refuses a book that is not up to date.
        clock: gives the time in epoch milliseconds.

    Raises:
        SchemaMismatch: the book is newer than this code, or older and ``migrate`` is false.
        StoreUnavailable: the database cannot be reached.
        ConfigurationError: the URL does not name an SQLite file or a PostgreSQL database.
    """
    database = Database(create_book_engine(url))
    try:
        bring_up_to_date(database, migrate=migrate)
    except BaseException:
        database.close()
        raise
    return CaseBook(database, clock)
