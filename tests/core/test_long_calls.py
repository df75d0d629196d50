"""Functions that may take long are waited for: else a worker gives up what goes well after all."""

from __future__ import annotations

import re

from local.paths import ROOT


def test_what_sets_a_longer_time_limit_is_called_with_one() -> None:
    migrations = sorted((ROOT / "supabase/migrations").glob("*.sql"))
    sql = "\n".join(path.read_text(encoding="utf-8") for path in migrations)
    heads = re.findall(r"create function backend\.(\w+)\((.*?)\nas \$", sql, re.DOTALL)
    slow = {name for name, head in heads if "set statement_timeout" in head}
    assert {"library_version_finish", "document_chunks_put"} <= slow

    python = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "functions").rglob("*.py")
    )
    called = {name for name in slow if f'"{name}"' in python}
    waited = set(re.findall(r'\.long_rpc\(\s*"(\w+)"', python))
    waited |= set(re.findall(r'Step\(\s*"(\w+)",[^)]*seconds=', python))
    assert called <= waited
    assert not slow & set(re.findall(r'\.rpc\(\s*"(\w+)"', python))
