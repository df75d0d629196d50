"""`make demo`: real clients use the real backend, from sign-up to a paid chat and a paid image."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import openai

import supabase
from local.checks import violated_invariants
from local.errors import StackError
from local.paths import CHECKS, state_dir
from local.stack import Stack, own_settings

MODEL = "Qwen2.5-32B-Instruct-AWQ"
IMAGE_MODEL = "flux-schnell"
PROMPT = "a lighthouse above the sea at dusk"
PACK = "starter"
LEDGER_TABLES = (
    "credit_accounts",
    "credit_transactions",
    "credit_lots",
    "credit_purchases",
    "usage_logs",
    "api_usage",
    "profiles",
)
RULES = b"# Harbour rules\n\nBoats are moored at night.\n\n## Fees\n\nA berth costs nine coins.\n"
QUESTION = "Explain in two sentences why a ledger should be append-only."


class DemoError(Exception):
    """A step did not show what it promises."""


@dataclass
class Person:
    """Somebody with a signed-in Supabase client."""

    name: str
    id: str
    token: str
    client: supabase.Client


@dataclass
class Demo:
    """The story, one method a step."""

    stack: Stack
    steps: int = 0
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Everything in order."""
        ada = self.sign_up("Ada")
        self.buy_credits(ada)
        answer = self.stream_chat(ada)
        self.replay(ada, answer)
        self.stop_early(ada)
        self.draw(ada)
        document = self.ask_a_document(ada)
        self.stranger(document)
        self.prove_the_books()
        self.statement(ada)

    # Steps -----------------------------------------------------------------------------------

    def sign_up(self, name: str) -> Person:
        """A Supabase client signs up; the database opens an account."""
        with self.step(f"{name} signs up with the Supabase client"):
            person = self._person(name)
            balance = _balance(person)
            _expect(balance["balance"], 100, "welcome credits")
            say(f"welcome credits: {balance['balance']}")
        return person

    def buy_credits(self, ada: Person) -> None:
        """Checkout, then the signed webhook, then the same webhook again."""
        with self.step("Ada buys credits; Stripe's signed webhook grants them, once"):
            pack = (
                ada.client.table("credit_packs")
                .select("name, credits, price_minor, currency")
                .eq("slug", PACK)
                .single()
                .execute()
            )
            price = f"{pack.data['price_minor'] / 100:.2f} {pack.data['currency'].upper()}"
            say(f"the pack: {pack.data['name']} for {price}")
            checkout = self._post(
                "/billing/checkout",
                ada,
                {
                    "pack": PACK,
                    "success_url": "http://localhost:3000/credits",
                    "cancel_url": "http://localhost:3000/credits",
                },
            )
            say(f"checkout: {checkout['url']}")
            for _ in range(2):  # what a browser's button does on the simulated page, twice
                httpx.post(checkout["url"], trust_env=False, timeout=30)
            purchase = (
                ada.client.table("credit_purchases")
                .select("status, credits")
                .eq("id", checkout["purchase_id"])
                .single()
                .execute()
            )
            _expect(purchase.data["status"], "paid", "the purchase")
            _expect(_balance(ada)["balance"], 100 + pack.data["credits"], "the balance")
            forged = httpx.post(
                f"{self.stack.functions_url}/billing/webhooks/stripe",
                content=b'{"id": "evt_forged", "type": "checkout.session.completed"}',
                headers={"stripe-signature": f"t={int(time.time())},v1={'0' * 64}"},
                trust_env=False,
            )
            _expect(forged.status_code, 400, "a forged webhook")
            say(f"delivered twice, credited once: {_balance(ada)['balance']} credits")
            say(f"a forged webhook: {forged.status_code}")

    def stream_chat(self, ada: Person) -> str:
        """The official openai client streams; the ledger pays."""
        with self.step("Ada streams a chat with the official openai client"):
            before = _balance(ada)["balance"]
            quote = self._post(
                "/v1/quote",
                ada,
                {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]},
            )
            say(f"quote: at most {quote['credits_max']} credits, affordable: {quote['affordable']}")
            key = str(uuid.uuid4())
            text, usage = self._stream(ada, key)
            say(f"answer: {text}")
            after = _balance(ada)
            charged = Decimal(str(usage.credits_charged))
            say(
                f"{usage.prompt_tokens} + {usage.completion_tokens} tokens, "
                f"{charged} credits charged, {usage.credits_remaining} left"
            )
            _expect(before - after["balance"], charged, "what the ledger took")
            _expect(after["held"], 0, "what is still held")
        return key

    def replay(self, ada: Person, key: str) -> None:
        """The same Idempotency-Key returns the stored answer and charges nothing."""
        with self.step("Ada's client retries with the same Idempotency-Key"):
            before = _balance(ada)["balance"]
            text, _ = self._stream(ada, key)
            _expect(_balance(ada)["balance"], before, "the balance")
            say(f"the same answer, {len(text)} characters, nothing charged")

    def stop_early(self, ada: Person) -> None:
        """A client that leaves pays for what was produced, once."""
        with self.step("Ada closes the stream after the first five tokens"):
            before = _balance(ada)["balance"]
            stream = self._openai(ada).chat.completions.create(
                model=MODEL,
                stream=True,
                messages=[
                    {"role": "user", "content": "Count up. simulate: tokens=1500 token_ms=10"}
                ],
            )
            read = 0
            for chunk in stream:
                read += bool(chunk.choices and chunk.choices[0].delta.content)
                if read == 5:
                    break
            stream.close()
            after = self._settled(ada)
            _expect(after["balance"] < before, True, "a charge for what was produced")
            usage = (
                ada.client.table("usage_logs")
                .select("status, completion_tokens, credits")
                .order("created_at", desc=True)
                .limit(1)
                .single()
                .execute()
            ).data
            _expect(usage["status"], "cancelled", "the usage row")
            say(
                f"upstream cancelled when it had produced {usage['completion_tokens']}; "
                f"{usage['credits']} credits charged for those, nothing held"
            )

    def draw(self, ada: Person) -> None:
        """A client inserts rows; a worker draws, keeps and charges, and looks at the images."""
        with self.step("Ada inserts two generations of images with the Supabase client"):
            before = _balance(ada)["balance"]
            asked = {"model_id": IMAGE_MODEL, "prompt": PROMPT, "num_outputs": 3}
            table = ada.client.table("image_generations")
            rows = table.insert([asked | {"seed": seed} for seed in (7, 8)]).execute().data
            free = sum(row["free_images"] for row in rows)
            held = sum(Decimal(str(row["credits_cost"])) for row in rows)
            say(f"pending: {free} of 6 images are free this month, {held} credits held")
            ids = [row["id"] for row in rows]
            for id_ in ids:
                ended = self._until(
                    lambda id_=id_: (
                        table.select("status")
                        .eq("id", id_)
                        .not_.in_("status", ["pending", "processing"])
                        .execute()
                        .data
                    ),
                    "the images",
                )
                _expect(ended["status"], "completed", "the generation")
            charged = before - self._settled(ada)["balance"]
            _expect(charged, held, "what the images cost")
            image = self._until(
                lambda: (
                    ada.client.table("generated_images")
                    .select("*")
                    .eq("generation_id", ids[0])
                    .not_.is_("vision_embedding_model", "null")
                    .execute()
                    .data
                ),
                "what is on them",
            )
            content = ada.client.storage.from_("images").download(image["storage_path"])
            _expect(len(content), image["size_bytes"], "the bytes of the file")
            say(
                f"completed: {charged} credits charged, {image['width']} x {image['height']} pixels"
            )
            say(f"found on one: {', '.join(image['vision_labels'])} ({image['color_palette'][0]})")
            suggested = ada.client.rpc("suggest_prompts", {"p_prompt": "a lighthouse"}).execute()
            say(f"suggested next: {suggested.data[0]['suggested_prompt']}")

    def ask_a_document(self, ada: Person) -> str:
        """A file is uploaded and indexed; an answer says where in it that is from."""
        with self.step("Ada uploads a document and asks about it; the answer cites it"):
            operator = supabase.create_client(self.stack.supabase_url, self.stack.keys.secret_key)
            until = datetime.now(UTC) + timedelta(days=30)
            given = {"p_user_id": ada.id, "p_plan": "pro", "p_until": until.isoformat()}
            why = {"p_reason": "to show documents", "p_actor": "demo"}
            operator.schema("backend").rpc("plan_assign", given | why).execute()
            table = ada.client.table("documents")
            file = {"name": "Harbour rules", "original_filename": "rules.md"}
            size = {"mime_type": "text/markdown", "file_size": len(RULES)}
            [row] = table.insert(file | size).execute().data
            ada.client.storage.from_("documents").upload(
                row["storage_path"], RULES, {"content-type": "text/markdown"}
            )
            ada.client.rpc("document_uploaded", {"p_id": row["id"]}).execute()
            ready = self._until(
                lambda: table.select("*").eq("id", row["id"]).eq("state", "ready").execute().data,
                "the index",
            )
            say(f"indexed: {ready['chunk_count']} chunks")
            conversation = self._post("/conversations", ada, {"documents": [row["id"]]})
            answer = self._post(
                f"/conversations/{conversation['id']}/messages",
                ada,
                {"content": "What does a berth cost? simulate: cite=1", "stream": False},
            )["message"]
            say(f"answer: {answer['content']}")
            for citation in answer["citations"]:
                _expect(citation["document_id"], row["id"], "the document that is cited")
                cited = "cited" if citation["is_cited"] else "given"
                say(f"[{citation['number']}] {cited}: {citation['name']}: {citation['excerpt']}")
            _expect(answer["citations"][0]["is_cited"], True, "the first citation")
        return str(row["id"])

    def stranger(self, document: str) -> None:
        """Somebody else sees nothing and changes nothing."""
        with self.step("Mallory, a stranger, tries every door"):
            mallory = self._person("Mallory")
            for table in LEDGER_TABLES:
                rows = mallory.client.table(table).select("*").execute().data
                foreign = [row for row in rows if not _is_of(row, mallory)]
                _expect(foreign, [], f"rows of others in {table}")
            attempts = {
                "raise her balance": lambda: (
                    mallory.client.table("credit_accounts").update({"balance": 1e6}).execute()
                ),
                "write a credit lot": lambda: (
                    mallory.client.table("credit_lots").insert({"amount": 1e6}).execute()
                ),
                "become an admin": lambda: (
                    mallory.client.table("profiles").update({"is_admin": True}).execute()
                ),
                "grant herself credits": lambda: (
                    mallory.client.schema("backend")
                    .rpc("credit_grant", {"p_user_id": mallory.id, "p_amount": 1e6})
                    .execute()
                ),
            }
            for what, attempt in attempts.items():
                _refused(what, attempt)
            anonymous = openai.OpenAI(base_url=f"{self.stack.functions_url}/v1", api_key="nobody",
                                      max_retries=0)  # fmt: skip
            try:
                anonymous.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "free?"}]
                )
            except openai.AuthenticationError as error:
                say(f"chat without a token: {error.status_code} {error.code}")
            else:
                raise DemoError("chat without a token was answered")
            asked = httpx.post(
                f"{self.stack.functions_url}/conversations",
                json={"documents": [document]},
                headers={"Authorization": f"Bearer {mallory.token}"},
                trust_env=False,
                timeout=30,
            )
            _expect(asked.json().get("code"), "document_not_found", "a stranger's document")
            say(f"ask Ada's document: {asked.status_code} {asked.json()['code']}")
            _expect(_balance(mallory)["balance"], 100, "Mallory's balance")

    def prove_the_books(self) -> None:
        """Every invariant of sql/checks/."""
        with self.step("The books are proved"):
            wrong = list(violated_invariants(self.stack.admin_dsn, CHECKS))
            _expect(wrong, [], "violated invariants")
            say(f"{len(list(CHECKS.glob('*.sql')))} invariants hold")

    def statement(self, ada: Person) -> None:
        """What Ada sees of her ledger."""
        with self.step("Ada reads her statement"):
            statement = ada.client.rpc("credit_statement", {}).execute().data
            print(f"\n      {'type':<10} {'amount':>14} {'balance':>14}  what")
            for entry in reversed(statement["entries"]):
                print(
                    f"      {entry['type']:<10} {entry['amount']:>14.6f} "
                    f"{entry['balance_after']:>14.6f}  {entry['description'] or ''}"
                )
            print()

    # Tools -----------------------------------------------------------------------------------

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print a numbered step and how long it took."""
        self.steps += 1
        print(f"\n  {self.steps}. {title}", flush=True)
        began = time.monotonic()
        yield
        print(f"     done in {time.monotonic() - began:.2f} s", flush=True)

    def _person(self, name: str) -> Person:
        client = supabase.create_client(self.stack.supabase_url, self.stack.keys.publishable_key)
        answer = client.auth.sign_up(
            {
                "email": f"{name.lower()}-{uuid.uuid4().hex[:8]}@example.com",
                "password": uuid.uuid4().hex,
                "options": {"data": {"full_name": name}},
            }
        )
        if answer.user is None or answer.session is None:
            raise DemoError(f"{name} could not sign up")
        return Person(name, answer.user.id, answer.session.access_token, client)

    def _openai(self, person: Person) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.stack.functions_url}/v1", api_key=person.token, max_retries=0
        )

    def _stream(self, person: Person, key: str) -> tuple[str, Any]:
        text, usage = "", None
        for chunk in self._openai(person).chat.completions.create(
            model=MODEL,
            stream=True,
            messages=[{"role": "user", "content": QUESTION}],
            extra_headers={"Idempotency-Key": key},
        ):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            usage = chunk.usage or usage
        if not text or usage is None:
            raise DemoError("the stream ended without an answer or without its usage")
        return text, usage

    def _settled(self, person: Person) -> dict[str, Any]:
        """The balance once nothing is held any more; the app settles after the client has left."""
        for _ in range(100):
            balance = _balance(person)
            if balance["held"] == 0:
                return balance
            time.sleep(0.05)
        raise DemoError("the credits of a closed stream are still held after five seconds")

    def _until(self, look: Callable[[], list[dict[str, Any]]], what: str) -> dict[str, Any]:
        """The first row that `look` finds."""
        for _ in range(200):
            if rows := look():
                return rows[0]
            time.sleep(0.1)
        raise DemoError(f"{what} did not come within twenty seconds")

    def _post(self, path: str, person: Person, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.stack.functions_url}{path}",
            json=body,
            headers={"Authorization": f"Bearer {person.token}"},
            trust_env=False,
            timeout=30,
        )
        if answer.is_error:
            raise DemoError(f"{path} answered {answer.status_code}: {answer.text}")
        return answer.json()


def say(line: str) -> None:
    """Print a line of a step."""
    print(f"     {line}", flush=True)


def _balance(person: Person) -> dict[str, Any]:
    balance = person.client.rpc("credit_balance", {}).execute().data
    # JSON numbers; their shortest form is exactly what the ledger holds.
    return balance | {
        name: Decimal(str(balance[name])) for name in ("balance", "held", "available")
    }


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise DemoError(f"{what}: expected {wanted}, found {found}")


def _is_of(row: dict[str, Any], person: Person) -> bool:
    # The welcome credits are the one ledger entry a stranger has: on an account that is theirs.
    own = {
        account["id"]
        for account in person.client.table("credit_accounts").select("id").execute().data
    }
    return person.id in (row.get("user_id"), row.get("id")) or row.get("account_id") in own


def _refused(what: str, attempt: Any) -> None:  # noqa: ANN401 - a callable of the client's
    try:
        rows = attempt().data
    except Exception as error:  # noqa: BLE001 - the client's exceptions share no base
        say(f"{what}: refused ({getattr(error, 'code', None) or type(error).__name__})")
        return
    if rows:
        raise DemoError(f"Mallory could {what}")
    say(f"{what}: no row changed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the story on a stack of its own, and take the stack away again."""
    parser = argparse.ArgumentParser(prog="python -m local.demo", description=__doc__)
    parser.add_argument(
        "--transport",
        choices=("rest", "direct"),
        default="rest",
        help="how the functions app reaches the database (%(default)s)",
    )
    options = parser.parse_args(arguments)
    state = state_dir() / "demo"
    stack = Stack(
        state=state,
        rebuild=True,
        durable=False,
        transport=options.transport,
        environment=own_settings(),
        say=say,
    )
    shutil.rmtree(state, ignore_errors=True)
    stack.postgres.destroy()
    began = time.monotonic()
    print("Quernel demo: a stack of its own, on free ports.", flush=True)
    try:
        print("\n  0. The stack starts", flush=True)
        with stack:
            print(f"     done in {time.monotonic() - began:.2f} s", flush=True)
            Demo(stack).run()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - whatever a client raises is a failed step
        known = isinstance(error, DemoError | StackError)
        kind = "" if known else f"{type(error).__name__}: "
        print(f"\nThe demo failed. {kind}{error}", file=sys.stderr)
        return 1
    finally:
        stack.stop()
        stack.postgres.destroy()
        shutil.rmtree(state, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"\nAll of it worked, in {seconds:.1f} s. `make dev` keeps the stack up to play with.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
