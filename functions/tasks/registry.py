"""Every kind of task and its handler: a closed list, because tasks come from our own SQL."""

from __future__ import annotations

from collections.abc import Mapping

from functions.billing.tasks import (
    apply_stripe_event,
    buy_automatic_top_up,
    cancel_subscription,
    expire_checkout,
    reconcile_stripe,
)
from functions.documents.tasks import index_document
from functions.images.analysis import analyze_image, refresh_insights
from functions.images.tasks import delete_files, generate_image
from functions.libraries.tasks import crawl_library, embed_library
from functions.notifications.tasks import send_email, send_event
from functions.privacy.tasks import erase_person
from functions.provider_keys.tasks import check_idle_key
from functions.tasks.context import TaskKind

TASK_KINDS: Mapping[str, TaskKind] = {
    "image_generate": TaskKind(generate_image, timeout_seconds=1800, share=5 / 16),
    "image_analyze": TaskKind(analyze_image, timeout_seconds=300, share=1 / 8),
    "insights_refresh": TaskKind(refresh_insights, timeout_seconds=900, share=1 / 16),
    "image_files_delete": TaskKind(delete_files, timeout_seconds=120),
    "document_index": TaskKind(index_document, timeout_seconds=900, share=1 / 8),
    "library_crawl": TaskKind(crawl_library, timeout_seconds=3600, share=1 / 16),
    "library_embed": TaskKind(embed_library, timeout_seconds=3600, share=1 / 16),
    "files_delete": TaskKind(delete_files, timeout_seconds=120),
    "email": TaskKind(send_email, timeout_seconds=120),
    "person_erase": TaskKind(erase_person, timeout_seconds=1800, share=1 / 16),
    "auto_top_up": TaskKind(buy_automatic_top_up, timeout_seconds=120),
    "checkout_expire": TaskKind(expire_checkout, timeout_seconds=60),
    "subscription_cancel": TaskKind(cancel_subscription, timeout_seconds=60),
    "provider_key_check": TaskKind(check_idle_key, timeout_seconds=60),
    "stripe_event": TaskKind(apply_stripe_event, timeout_seconds=60),
    "webhook": TaskKind(send_event, timeout_seconds=60),
    "stripe_reconcile": TaskKind(reconcile_stripe, timeout_seconds=1200, share=1 / 16),
}
