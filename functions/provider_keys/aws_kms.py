"""Master keys that AWS KMS encrypted. Credentials come from where boto3 finds them.

The name of a master key is part of the encryption context: one that is stored under another name
does not decrypt. https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Any

from functions.core.errors import OperatorError, UnavailableError
from functions.core.settings import Settings
from functions.provider_keys.master_keys import unreadable

CONTEXT = "quernel:kid"
_PASSING = frozenset(
    {
        "DependencyTimeoutException",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
    }
)
"""Errors that another attempt may not meet."""

SECONDS = 5


class AwsKms:
    """See KeySource."""

    def __init__(self, settings: Settings) -> None:
        self._key_id = settings.aws_kms_key_id
        self._region = settings.aws_region
        self._endpoint = settings.aws_kms_endpoint

    async def decrypt(self, kid: str, text: str) -> bytes:
        try:
            blob = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise unreadable(kid, "it is not base64") from None

        def ask(client: Any) -> bytes:  # noqa: ANN401 - boto3 makes its classes at run time
            named = {} if self._key_id is None else {"KeyId": self._key_id}
            answer = client.decrypt(CiphertextBlob=blob, EncryptionContext={CONTEXT: kid}, **named)
            return bytes(answer["Plaintext"])

        key: bytes = await self._call(kid, ask)
        return key

    async def new(self, kid: str) -> str:
        if self._key_id is None:
            raise OperatorError("invalid_settings", "QUERNEL_AWS_KMS_KEY_ID says which key of KMS.")

        def ask(client: Any) -> str:  # noqa: ANN401 - as above
            answer = client.generate_data_key_without_plaintext(
                KeyId=self._key_id, KeySpec="AES_256", EncryptionContext={CONTEXT: kid}
            )
            return base64.b64encode(answer["CiphertextBlob"]).decode()

        text: str = await self._call(kid, ask)
        return text

    async def _call(self, kid: str, ask: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as above
        try:
            import boto3  # noqa: PLC0415 - only where KMS is used; it is large
            from botocore.config import Config  # noqa: PLC0415
            from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        except ImportError:
            raise OperatorError(
                "boto3_missing", "AWS KMS needs boto3: pip install 'quernel[aws]'."
            ) from None

        def run() -> Any:  # noqa: ANN401 - as above
            client = boto3.client(
                "kms",
                region_name=self._region,
                endpoint_url=self._endpoint,
                config=Config(
                    connect_timeout=SECONDS, read_timeout=SECONDS, retries={"max_attempts": 2}
                ),
            )
            try:
                return ask(client)
            finally:
                client.close()

        try:
            return await asyncio.to_thread(run)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _PASSING:
                raise _unavailable() from None
            raise unreadable(kid, f"AWS KMS says {code}") from None
        except BotoCoreError as error:
            if type(error).__name__ in ("NoCredentialsError", "NoRegionError"):
                raise OperatorError(
                    "invalid_settings", f"AWS KMS cannot be asked: {type(error).__name__}."
                ) from None
            raise _unavailable() from None


def _unavailable() -> UnavailableError:
    return UnavailableError("master_keys_unavailable", "The keys cannot be opened now.", 5)
