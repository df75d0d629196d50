"""Compares what Stripe has with what is known of it here, page by page, and repairs by reading.

What a page needs is decided by the database. After each page the run's place is noted, so that a
run which was cut off goes on there; a page that is done twice is done once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from functions.billing.mirror import reapplied
from functions.billing.service import InboxService
from functions.billing.stripe_client import StripeGateway, expects_livemode
from functions.billing.stripe_lists import Page, StripeLists
from functions.core.database import Database
from functions.core.errors import QuernelError, UnavailableError
from functions.core.json import Json
from functions.core.logging import log_event
from functions.core.settings import Settings

logger = logging.getLogger(__name__)

WALK = (
    "event",
    "subscription",
    "payment_intent",
    "invoice_payment",
    "invoice",
    "checkout.session",
    "charge",
    "dispute",
)
"""In this order. What payment methods and customers say is in events alone."""

COUNTS = ("compared", "missing", "differing", "unapplied", "repaired", "skipped", "failed")


class Reconciler:
    """One run, from wherever it stands."""

    def __init__(
        self, settings: Settings, database: Database, gateway: StripeGateway, lists: StripeLists
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._lists = lists
        self._inbox = InboxService(database, gateway)
        self._livemode = expects_livemode(settings)

    async def run(
        self, days: int | None = None, tell: Callable[[int], None] = lambda _: None
    ) -> dict[str, Json]:
        """Finish the run that is under way, or one over what was made in the last so many days.

        `tell` hears how many kinds of WALK are compared. Returns the report. Raises QuernelError;
        UnavailableError when it can go on later. What cannot be repaired is in the report and stops
        nothing.
        """
        run = await self._database.rpc("stripe_reconcile_start", p_object_type=WALK[0], p_days=days)
        while run["status"] == "running":
            tell(WALK.index(run["object_type"]))
            run = await self._page(run)
        tell(len(WALK))
        fields = {name: run[name] for name in COUNTS}
        log_event(logger, logging.INFO, "stripe reconciled", **fields)
        return {
            "run_id": run["id"],
            "since": run["since"],
            **fields,
            "findings": run["findings"],
        }

    async def _page(self, run: dict[str, Json]) -> dict[str, Json]:
        kind = run["object_type"]
        page = await self._lists.page(kind, since=run["since_unix"], after=run["cursor"])
        found = await self._database.rpc(
            "stripe_reconcile_compare",
            p_objects=[_summary(o) if kind == "event" else o for o in page.objects],
            p_livemode=self._livemode,
        )
        noted: dict[str, Json] = await self._database.rpc(
            "stripe_reconcile_note",
            p_run_id=run["id"],
            p_object_type=kind,
            p_cursor=run["cursor"],
            p_next_type=kind if page.has_more else _after(kind),
            p_next_cursor=page.objects[-1]["id"] if page.has_more else None,
            p_compared=len(page.objects),
            p_findings=[finding | await self._repair(finding, page) for finding in found],
        )
        return noted

    async def _repair(self, finding: dict[str, Json], page: Page) -> dict[str, Json]:
        """Repair one finding; what came of it. Raises UnavailableError."""
        try:
            if finding["type"] == "event":
                event = next(o for o in page.objects if o["id"] == finding["id"])
                result = str(await self._inbox.receive(event, livemode=self._livemode))
            else:
                result = await self._read(finding["type"], finding["id"])
        except UnavailableError:
            raise
        except QuernelError as error:
            log_event(
                logger,
                logging.ERROR,
                "stripe object not repaired",
                object_type=finding["type"],
                object_id=finding["id"],
                error=error.code,
            )
            return {"outcome": "failed", "error": error.code}
        return {"outcome": "repaired" if result == "applied" else "skipped"}

    async def _read(self, object_type: str, object_id: str) -> str:
        _, result = await reapplied(
            self._database,
            object_type,
            object_id,
            lambda: self._gateway.read(object_type, object_id),
        )
        return result


def _after(kind: str) -> str | None:
    place = WALK.index(kind) + 1
    return WALK[place] if place < len(WALK) else None


def _summary(event: dict[str, Json]) -> dict[str, Json]:
    return {name: event[name] for name in ("object", "id", "type", "livemode")}
