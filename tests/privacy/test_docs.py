"""docs/privacy.md says of every table of the catalogue what becomes of a person's rows."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from local.paths import ROOT

PAGE = ROOT / "docs" / "privacy.md"
ROWS = """
select
  format(
    '| `%s` | %s | %s |',
    regexp_replace(p.table_schema || '.' || p.table_name, '^public\\.', ''),
    string_agg(format('%s: %s', c.rule, c.names), '; ' order by c.place, c.rule),
    regexp_replace(p.retention, '([a-z]+_[a-z_]+)', '`\\1`')
  )
from private.personal_tables as p
cross join lateral (
  select 1 as place, 'deleted' as rule, 'rows' as names where p.erasure = 'delete'
  union all
  select 2, 'emptied', string_agg(format('`%s`', d.column_name), ', ' order by d.column_name)
  from private.personal_data as d
  where d.table_schema = p.table_schema and d.table_name = p.table_name and d.erasure = 'null'
  having count(*) > 0
  union all
  select 3, 'kept', p.reason where p.erasure in ('forget', 'keep')
) as c
where p.rows_of is not null
group by p.table_schema, p.table_name, p.retention
order by p.table_schema = 'public' desc, p.table_schema, p.table_name
"""


def expected(connection: psycopg.Connection) -> list[str]:
    return [row for (row,) in connection.execute(ROWS.encode())]


def test_the_page_has_the_catalogue(db: Callable[[], psycopg.Connection]) -> None:
    lines = PAGE.read_text().splitlines()
    begin = lines.index("| table | on erasure | otherwise kept |") + 2
    end = lines.index("", begin)
    rows = expected(db())
    assert lines[begin:end] == rows, "\n".join(["docs/privacy.md should have:", *rows])
