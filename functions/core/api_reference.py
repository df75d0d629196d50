"""The page /docs: Swagger UI over our OpenAPI document, all of it from this origin.

Its files come with the package fastapi-offline, so that the page works without the internet and
tells no other host who reads it. Its Content-Security-Policy sees to it that this stays so.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse

ASSETS = Path(str(files("fastapi_offline"))) / "static"
ASSET_SECONDS = 3600
"""How long a browser keeps the two files; they change when the package does."""

# Addresses are relative, for a proxy that serves the app under a path. The default `validatorUrl`
# asks a public service what it thinks of the document.
START = """
SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: "openapi.json",
  deepLinking: true,
  validatorUrl: null,
});
"""

PAGE = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quernel API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>{START}</script>
</body>
</html>
"""

_START_HASH = base64.b64encode(hashlib.sha256(START.encode()).digest()).decode()

POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src 'self' 'sha256-{_START_HASH}'",
        "style-src 'self'",
        "img-src 'self' data:",  # the icons inside its style sheet
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def show_reference() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE, headers={"content-security-policy": POLICY})


@router.get("/docs/swagger-ui-bundle.js")
async def send_script() -> FileResponse:
    """Its script."""
    return _asset("swagger-ui-bundle.js")


@router.get("/docs/swagger-ui.css")
async def send_style() -> FileResponse:
    """Its style sheet."""
    return _asset("swagger-ui.css")


def _asset(name: str) -> FileResponse:
    headers = {"cache-control": f"public, max-age={ASSET_SECONDS}"}
    return FileResponse(ASSETS / name, headers=headers)
