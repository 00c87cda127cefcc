"""How a receiver knows that a notification is ours, unchanged and new: Standard Webhooks' headers.

    webhook-id         the event's id, the same however often it is sent
    webhook-timestamp  seconds since 1970, of this attempt
    webhook-signature  v1,<base64 of the HMAC-SHA256 of "id.timestamp.body">

What verifies that standard verifies ours; ops/docs/guide/notify.md has it in a few lines.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from uuid import UUID


def signed_headers(secret: str, event_id: UUID, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers that sign a body sent at a moment, in seconds since 1970."""
    content = b".".join([str(event_id).encode(), str(timestamp_s).encode(), body])
    digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return {
        "webhook-id": str(event_id),
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
