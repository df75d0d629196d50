"""A stand-in for Stripe's API: the calls Quernel makes, answered from memory in Stripe's shapes.

    python -m local.stripe_double --port 54350 --webhook-url http://127.0.0.1:54330/billing/webhooks/stripe

It keeps Stripe's promises that billing relies on: an idempotency key repeats the first answer,
refuses other parameters, and answers 409 while the first request runs; unknown parameters, prices
and customers are refused; a secret key is required. Its checkout page says that no money moves, and
its button pays and delivers the signed event. It records every request it gets.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from functions.core.settings import STRIPE_API_VERSION
from local.processes import LOOPBACK, free_port
from local.stripe_billing_world import BillingWorld, DeclinedError
from local.stripe_world import StripeObject, UnknownPriceError, published, signed

PARAMETERS = {
    "customers": {"email", "name", "metadata"},
    "checkout/sessions": {
        "adaptive_pricing",
        "cancel_url",
        "client_reference_id",
        "customer",
        "invoice_creation",
        "line_items",
        "metadata",
        "mode",
        "payment_intent_data",
        "subscription_data",
        "success_url",
    },
    "billing_portal/sessions": {"configuration", "customer", "return_url"},
    "payment_intents": {
        "amount",
        "confirm",
        "currency",
        "customer",
        "description",
        "metadata",
        "off_session",
        "payment_method",
    },
}
SUBSCRIPTION_PARAMETERS = {
    "billing_cycle_anchor",
    "cancel_at",
    "cancel_at_period_end",
    "items",
    "metadata",
    "pause_collection",
    "payment_behavior",
    "proration_behavior",
}
READABLE = {
    "charges",
    "checkout/sessions",
    "customers",
    "disputes",
    "invoice_payments",
    "invoices",
    "payment_intents",
    "payment_methods",
    "prices",
    "refunds",
    "subscriptions",
}
RETRY_AFTER_SECONDS = 7
"""What a 429 asks to wait."""

LISTED = {
    "charges": "charge",
    "checkout/sessions": "checkout.session",
    "disputes": "dispute",
    "events": "event",
    "invoice_payments": "invoice_payment",
    "invoices": "invoice",
    "payment_intents": "payment_intent",
    "subscriptions": "subscription",
    "webhook_endpoints": "webhook_endpoint",
}
"""Resource → type of its objects."""

LIST_PARAMETERS = {"created", "customer", "limit", "starting_after", "status"}
_KEY = re.compile(r"Bearer (?:sk|rk)_test_\w+")
_PART = re.compile(r"[^\[\]]+")

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simulated checkout</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center;
    font: 1rem/1.5 system-ui, sans-serif; background: light-dark(#f4f5f7, #17181c); }}
  main {{ box-sizing: border-box; width: min(24rem, 100vw - 2rem); padding: 2rem;
    border-radius: 1rem; background: light-dark(#fff, #23252b); box-shadow: 0 1px 8px #0003; }}
  h1 {{ margin: 0; font-size: 1.25rem; }}
  .notice {{ margin: 0 0 1.5rem; font-size: .875rem; color: light-dark(#6b5900, #e5c94e); }}
  .amount {{ margin: .25rem 0 1.5rem; font-size: 2rem; font-weight: 600; }}
  .state {{ font-weight: 600; color: light-dark(#11743a, #5fd38d); }}
  button {{ width: 100%; padding: .75rem; border: 0; border-radius: .5rem; cursor: pointer;
    font: inherit; font-weight: 600; color: #fff; background: #4b45c6; }}
  a {{ color: inherit; }}
</style>
<main>
  <p class="notice">Simulated checkout. No money moves here.</p>
  <h1>{bought}</h1>
  <p class="amount">{amount} {currency}</p>
  {rest}
</main>
</html>"""


@dataclass(frozen=True)
class Recorded:
    """One API request."""

    method: str
    path: str
    params: dict[str, Any]
    headers: dict[str, str]


@dataclass
class _Kept:
    """What is known of an idempotency key."""

    call: tuple[str, str]
    status: int | None = None
    body: bytes = b""


@dataclass
class StripeDouble:
    """The server and the account behind it."""

    url: str
    world: BillingWorld = field(default_factory=BillingWorld)
    webhook_url: str | None = None
    webhook_secret: str | None = None
    endpoints: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    """What is different about the webhook endpoints it lists."""

    latency_seconds: float = 0.0
    failures: list[int] = field(default_factory=list)
    """HTTP statuses that the next requests are answered with, one each."""

    requests: list[Recorded] = field(default_factory=list)
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _completed: dict[str, StripeObject] = field(default_factory=dict)

    def made(self, path: str) -> list[Recorded]:
        """The POST requests that were sent to a path."""
        return [r for r in self.requests if r.method == "POST" and r.path == path]

    def app(self) -> Starlette:
        """The API and the checkout page."""
        return Starlette(
            routes=[
                Route("/c/pay/{id}", self._page, methods=["GET"]),
                Route("/c/pay/{id}", self._pay, methods=["POST"]),
                Route("/v1/{path:path}", self._api, methods=["GET", "POST", "DELETE"]),
            ]
        )

    # The API ---------------------------------------------------------------------------------

    async def _api(self, request: Request) -> Response:
        body = (await request.body()).decode()
        path = request.url.path
        # DELETE may carry its parameters in either place.
        params = _nested(
            request.url.query if request.method == "GET" else body or request.url.query
        )
        self.requests.append(Recorded(request.method, path, params, dict(request.headers)))
        if not _KEY.fullmatch(request.headers.get("authorization", "")):
            return _error(401, "invalid_request_error", "Invalid API Key provided.")
        if self.failures:
            return _error(self.failures.pop(0), "api_error", "Something went wrong on our end.")
        key = request.headers.get("idempotency-key")
        if request.method == "GET" or key is None:
            await asyncio.sleep(self.latency_seconds)
            return self._answer(request.method, path, params)
        return await self._once(key, request.method, path, body, params)

    async def _once(
        self, key: str, method: str, path: str, body: str, params: dict[str, Any]
    ) -> Response:
        kept = self._kept.get(key)
        if kept is not None:
            if kept.call != (f"{method} {path}", body):
                return _error(
                    400,
                    "idempotency_error",
                    "Keys for idempotent requests can only be used with the same parameters.",
                )
            if kept.status is None:
                return _error(409, "invalid_request_error", "Key in use.", "idempotency_key_in_use")
            return Response(
                kept.body,
                kept.status,
                {"Idempotent-Replayed": "true"},
                media_type="application/json",
            )
        kept = self._kept[key] = _Kept((f"{method} {path}", body))
        await asyncio.sleep(self.latency_seconds)
        answer = self._answer(method, path, params)
        if (
            answer.status_code == HTTPStatus.BAD_REQUEST
        ):  # refused before anything ran: the key stays free
            del self._kept[key]
        else:
            kept.status, kept.body = answer.status_code, bytes(answer.body)
        return answer

    def _answer(self, method: str, path: str, params: dict[str, Any]) -> Response:
        resource = path.removeprefix("/v1/")
        folder, _, object_id = resource.rpartition("/")
        if method == "POST" and resource in PARAMETERS:
            create = (
                self._charge if resource == "payment_intents" else partial(self._create, resource)
            )
            return _unknown(params, PARAMETERS[resource]) or create(params)
        if method == "DELETE" and folder in self._endings:
            return self._endings[folder](self, object_id)
        if method == "POST" and resource.startswith("subscriptions/"):
            return self._subscription(resource.removeprefix("subscriptions/"), params)
        if method == "GET" and resource in LISTED:
            return _unknown(params, LIST_PARAMETERS) or self._list(resource, params)
        if method == "GET" and folder in READABLE:
            return self._found(object_id, folder)
        act = self._acts.get((folder.rpartition("/")[0], object_id)) if method == "POST" else None
        return (
            act(self, folder.rpartition("/")[2], params)
            if act
            else _error(
                404, "invalid_request_error", f"Unrecognized request URL ({method}: {path})."
            )
        )

    def _endpoints(self) -> dict[str, Any]:
        """The one that events are delivered to, as if an operator had made it, or others."""
        made = {
            "object": "webhook_endpoint",
            "id": "we_double",
            "url": self.webhook_url,
            "status": "enabled",
            "api_version": STRIPE_API_VERSION,
            "enabled_events": ["*"],
            "livemode": False,
        }
        return {
            "object": "list",
            "url": "/v1/webhook_endpoints",
            "data": [made | one for one in self.endpoints] if self.webhook_url else [],
            "has_more": False,
        }

    def _create(self, resource: str, params: dict[str, Any]) -> Response:
        if resource == "customers":
            return JSONResponse(self.world.customer(**params))
        if not self.world.has(params.get("customer")):
            return _missing("customer")
        if resource == "billing_portal/sessions":
            made = self.world.make("billing_portal.session", **params)
            url = f"{self.url}/p/session/{made['id']}"
            return JSONResponse(self.world.change(made["id"], url=url))
        try:
            return JSONResponse(published(self.world.session(self.url, params)))
        except KeyError as error:
            return _error(400, "invalid_request_error", f"Missing required param: {error.args[0]}.")
        except LookupError:
            return _missing("line_items[0][price]")

    def _charge(self, params: dict[str, Any]) -> Response:
        if not self.world.has(params.get("customer")):
            return _missing("customer")
        try:
            intent = self.world.charge_off_session(params)
        except KeyError:
            return _missing("payment_method")
        except ValueError as error:
            return _error(400, "invalid_request_error", str(error))
        failure = intent["last_payment_error"]
        if failure is None:
            return JSONResponse(published(intent))
        body = {"error": failure | {"payment_intent": published(intent)}}
        return JSONResponse(body, 402, {"Request-Id": "req_double"})

    def _cancel(self, intent_id: str, params: dict[str, Any]) -> Response:
        if unknown := _unknown(params, {"cancellation_reason"}):
            return unknown
        try:
            return JSONResponse(published(self.world.cancel(intent_id, **params)))
        except KeyError:
            return _missing("payment_intent", 404)
        except ValueError as error:
            return _error(
                400, "invalid_request_error", str(error), "payment_intent_unexpected_state"
            )

    def _delete_customer(self, customer_id: str) -> Response:
        if not self.world.has(customer_id):
            return _missing("customer", 404)
        self.world.delete_customer(customer_id)
        return JSONResponse(self.world.objects[customer_id])

    def _end_subscription(self, subscription_id: str) -> Response:
        if self.world.objects.get(subscription_id, {}).get("status") == "canceled":
            return _missing("subscription", 404)
        return _answered(partial(self.world.end, subscription_id))

    _endings: ClassVar = {"customers": _delete_customer, "subscriptions": _end_subscription}

    def _subscription(self, resource: str, params: dict[str, Any]) -> Response:
        if resource.endswith("/resume"):
            return _answered(partial(self.world.unpause, resource.removesuffix("/resume")))
        return _unknown(params, SUBSCRIPTION_PARAMETERS) or _answered(
            partial(self.world.update_subscription, resource, params)
        )

    def _list(self, resource: str, params: dict[str, Any]) -> Response:
        if resource == "webhook_endpoints":
            return JSONResponse(self._endpoints())
        kind = LISTED[resource]
        found = self.world.listed(kind, int(params.get("created", {}).get("gte", 0)))
        if kind == "subscription" and params.get("status") != "all":
            found = [one for one in found if one["status"] != "canceled"]
        if "customer" in params:
            found = [one for one in found if one["customer"] == params["customer"]]
        if "starting_after" in params:
            ids = [one["id"] for one in found]
            if params["starting_after"] not in ids:
                return _missing("starting_after")
            found = found[ids.index(params["starting_after"]) + 1 :]
        limit = int(params.get("limit", 10))
        return JSONResponse(
            {
                "object": "list",
                "url": f"/v1/{resource}",
                "data": [published(one) for one in found[:limit]],
                "has_more": len(found) > limit,
            }
        )

    def _expire(self, session_id: str, _: dict[str, Any]) -> Response:
        return _answered(partial(self.world.expire, session_id))

    _acts: ClassVar = {
        ("checkout/sessions", "expire"): _expire,
        ("payment_intents", "cancel"): _cancel,
    }

    def _found(self, object_id: str, resource: str) -> Response:
        if resource == "prices":
            return _answered(partial(self.world.price, object_id))
        # Refunds are expanded where they are asked for, and always here.
        return _answered(partial(self.world.get, object_id), expanded={"refunds"})

    # The checkout page -----------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        try:
            session = self.world.get(request.path_params["id"])
        except KeyError:
            return HTMLResponse("There is no such checkout.", HTTPStatus.NOT_FOUND)
        bought = [
            item["price_data"]["product_data"]["name"] if "price_data" in item else item["price"]
            for item in session["line_items_asked"]
        ]
        success = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
        cancel, success = (html.escape(url or "") for url in (session["cancel_url"], success))
        rest = {
            "open": f'<form method="post"><button>Pay (simulated)</button></form>'
            f'<p><a href="{cancel}">Turn back</a></p>',
            "complete": f'<p class="state">Paid</p><p><a href="{success}">Go on</a></p>',
        }.get(session["status"], "<p>This checkout has ended without a payment.</p>")
        return HTMLResponse(
            PAGE.format(
                bought=html.escape(", ".join(bought)),
                amount=f"{session['amount_total'] / 100:.2f}",
                currency=html.escape(session["currency"].upper()),
                rest=rest,
            )
        )

    async def _pay(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        session = self.world.get(session_id)
        # A second click pays nothing; it delivers the same event again, as Stripe also may.
        event = self._completed.get(session_id)
        if event is None and session["status"] == "open":
            if session["mode"] == "subscription":
                session = self.world.subscribe(session_id)
            else:
                session = self.world.pay(session_id)
            event = self.world.event("checkout.session.completed", session)
            self._completed[session_id] = event
        if event is None:
            return HTMLResponse("This checkout has ended.", HTTPStatus.GONE)
        await self.deliver(event)
        if session["mode"] == "subscription":
            story = self.world.story_of(session["subscription"])
        else:
            story = self.world.story_of_pack(session_id)
        for told in story:
            await self.deliver(told)
        back = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id)
        return RedirectResponse(back, status_code=HTTPStatus.SEE_OTHER)

    async def deliver(self, event: dict[str, Any]) -> int | None:
        """Send an event to the webhook as Stripe does; its status, None without a webhook."""
        if self.webhook_url is None or self.webhook_secret is None:
            return None
        body, headers = signed(event, self.webhook_secret)
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.post(self.webhook_url, content=body, headers=headers)
        return answer.status_code


def _nested(encoded: str) -> dict[str, Any]:
    """Decode `a[b][0][c]=1`, as Stripe's libraries write parameters."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        parts = _PART.findall(name)
        target = root
        for part in parts[:-1]:
            target = target.setdefault(part, {})
        target[parts[-1]] = value
    return {name: _lists(value) for name, value in root.items()}


def _lists(value: Any) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return value
    members = {name: _lists(member) for name, member in value.items()}
    if members and all(name.isdigit() for name in members):
        return [members[name] for name in sorted(members, key=int)]
    return members


def _error(status: int, kind: str, message: str, code: str | None = None) -> Response:
    error = {"type": kind, "message": message} | ({"code": code} if code else {})
    headers = {"Request-Id": "req_double"}
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JSONResponse({"error": error}, status, headers)


def _answered(act: Callable[[], StripeObject], expanded: Set[str] = frozenset()) -> Response:
    """What an act of the account is answered with."""
    try:
        return JSONResponse(published(act(), expanded))
    except DeclinedError:
        return _error(402, "card_error", "Your card was declined.", "card_declined")
    except UnknownPriceError:
        return _missing("price")
    except KeyError:
        return _missing("id", 404)
    except ValueError as error:
        return _error(400, "invalid_request_error", str(error))


def _unknown(params: dict[str, Any], known: set[str]) -> Response | None:
    """The refusal of parameters that nobody knows; None where all are known."""
    unknown = params.keys() - known
    if not unknown:
        return None
    return _error(
        400,
        "invalid_request_error",
        f"Received unknown parameter: {min(unknown)}",
        "parameter_unknown",
    )


def _missing(param: str, status: int = 400) -> Response:
    return _error(status, "invalid_request_error", f"No such {param}.", "resource_missing")


@contextmanager
def serve() -> Iterator[StripeDouble]:
    """A double on a free port, in a thread, for the length of a block."""
    port = free_port()
    double = StripeDouble(url=f"http://{LOOPBACK}:{port}")
    server = uvicorn.Server(
        uvicorn.Config(double.app(), host=LOOPBACK, port=port, log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the Stripe double did not start")
        time.sleep(0.01)
    try:
        yield double
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def main() -> None:
    """Serve until interrupted; the signing secret comes from QUERNEL_STRIPE_WEBHOOK_SECRET."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=54350)
    parser.add_argument("--webhook-url")
    options = parser.parse_args()
    double = StripeDouble(
        url=f"http://{LOOPBACK}:{options.port}",
        webhook_url=options.webhook_url,
        webhook_secret=os.environ.get("QUERNEL_STRIPE_WEBHOOK_SECRET"),
    )
    uvicorn.run(double.app(), host=LOOPBACK, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
