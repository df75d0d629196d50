-- Invariants: what must be true of the whole database, proved in production once a day.
--
--   private.invariants           the queries; each returns rows only where something is wrong (chapter 0992)
--   private.invariant_findings   what they found, until it is mended
--
-- One after the other, each in its own transaction, so that none keeps old rows for the others.

insert into private.settings (name, value, description) values
('invariant_hours', '24', 'Hours from one proof of an invariant to the next.'),
('invariant_findings_most', '100', 'Rows of one invariant that are kept; how many there are is counted all the same.');

create table private.invariants (
  name text primary key,
  says text not null,
  mend text not null,
  query text not null,
  proved_at timestamptz,
  seconds numeric(12, 3),
  found bigint,
  error text,
  constraint name_is_snake_case check (name ~ '^[0-9]{3}_[a-z0-9_]{1,100}$'),
  constraint found_is_not_negative check (found >= 0),
  constraint error_is_short check (length(error) between 1 and 2000)
);

comment on table private.invariants is 'Queries that return rows only where something is wrong, and how the latest proof of each went.';
comment on column private.invariants.name is 'Its file in sql/checks/, without the ending.';
comment on column private.invariants.says is 'What must be true, in a sentence.';
comment on column private.invariants.mend is 'What to do where it is not.';
comment on column private.invariants.query is 'The query: subject and detail of each row that is wrong.';
comment on column private.invariants.proved_at is 'When it was last asked.';
comment on column private.invariants.seconds is 'How long that took.';
comment on column private.invariants.found is 'Rows that were wrong; null where it could not be asked.';
comment on column private.invariants.error is 'Why it could not be asked.';

create table private.invariant_findings (
  invariant text not null references private.invariants (name) on delete cascade,
  subject text not null,
  detail jsonb,
  found_at timestamptz not null default clock_timestamp(),
  constraint a_subject_is_found_once primary key (invariant, subject)
);

comment on table private.invariant_findings is 'What is wrong, as of the latest proof of each invariant.';
comment on column private.invariant_findings.invariant is 'The invariant that does not hold.';
comment on column private.invariant_findings.subject is 'Of what it does not hold: an id, or a name.';
comment on column private.invariant_findings.detail is 'The numbers that contradict each other.';
comment on column private.invariant_findings.found_at is 'When it was first found.';

alter table private.invariants enable row level security;
alter table private.invariant_findings enable row level security;

insert into private.personal_tables (table_schema, table_name, erasure, is_exported, reason) values
('private', 'invariants', 'none', false, null),
(
  'private', 'invariant_findings', 'none', false,
  'Subjects are ids of rows, until they are mended; what belongs to nobody afterwards is told by no id of a person.'
);

create function private.prove(p_invariant private.invariants) returns private.invariants
language plpgsql volatile security definer set search_path = ''
as $$
declare
  v_began_at timestamptz := clock_timestamp();
  v_invariant private.invariants;
  v_found bigint;
  v_rows jsonb;
  v_error text;
begin
  begin
    execute format(
      'select count(*), coalesce(jsonb_agg(to_jsonb(r)) filter (where r.place <= %s), ''[]'')'
      ' from (select q.subject::text, to_jsonb(q.detail) as detail, row_number() over () as place from (%s) as q) as r',
      (private.setting('invariant_findings_most'))::integer, p_invariant.query
    ) into v_found, v_rows;
  exception when others then
    v_error := left(sqlstate || ' ' || sqlerrm, 2000);
  end;
  if v_error is null then
    delete from private.invariant_findings as f
    where f.invariant = p_invariant.name
      and f.subject not in (select r.row ->> 'subject' from jsonb_array_elements(v_rows) as r (row));
    insert into private.invariant_findings as f (invariant, subject, detail)
    select distinct on (r.row ->> 'subject') p_invariant.name, coalesce(r.row ->> 'subject', ''), r.row -> 'detail'
    from jsonb_array_elements(v_rows) as r (row)
    on conflict (invariant, subject) do update set detail = excluded.detail;
  end if;
  update private.invariants as i
  set proved_at = now(), seconds = extract(epoch from clock_timestamp() - v_began_at), found = v_found, error = v_error
  where i.name = p_invariant.name
  returning i.* into v_invariant;
  return v_invariant;
end
$$;

comment on function private.prove(private.invariants) is
'Asks an invariant, which is locked, and keeps what it found. One that cannot be asked says why.';

create function backend.invariants_prove(p_limit integer default 1, p_name text default null) returns jsonb
language plpgsql volatile security definer set search_path = '' set statement_timeout = '10min'
as $$
declare
  v_invariant private.invariants;
  v_count integer := 0;
  v_wrong jsonb := '[]';
begin
  for v_invariant in
    select i.*
    from private.invariants as i
    where case
      when p_name is not null then i.name = p_name
      else coalesce(i.proved_at, '-infinity') <= now() - make_interval(hours => (private.setting('invariant_hours'))::integer)
    end
    order by i.proved_at nulls first, i.name
    limit least(greatest(p_limit, 1), 200)
    for update skip locked
  loop
    v_invariant := private.prove(v_invariant);
    v_count := v_count + 1;
    if v_invariant.found > 0 or v_invariant.error is not null then
      v_wrong := v_wrong || jsonb_build_object(
        'name', v_invariant.name, 'found', v_invariant.found, 'error', v_invariant.error
      );
    end if;
  end loop;
  return jsonb_build_object('count', v_count, 'wrong', v_wrong);
end
$$;

comment on function backend.invariants_prove(integer, text) is
'Proves invariants whose time has come, or one of them now: how many, and which do not hold or could not be asked.';

create function backend.invariants_status() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'proved', count(i.proved_at), 'all', count(*), 'oldest_proof_at', min(i.proved_at),
    'wrong', coalesce(
      jsonb_agg(
        jsonb_build_object(
          'name', i.name, 'says', i.says, 'mend', i.mend, 'found', i.found, 'error', i.error, 'proved_at', i.proved_at,
          'findings', (
            select coalesce(jsonb_agg(jsonb_build_object('subject', f.subject, 'detail', f.detail, 'found_at', f.found_at)
              order by f.found_at, f.subject), '[]')
            from (
              select * from private.invariant_findings as o
              where o.invariant = i.name order by o.found_at, o.subject limit 10
            ) as f
          )
        )
        order by i.name
      ) filter (where i.found > 0 or i.error is not null), '[]'
    )
  )
  from private.invariants as i
$$;

comment on function backend.invariants_status() is
'Which invariants do not hold, as of their latest proof, with the first ten rows of each; and how many were proved.';

grant execute on function backend.invariants_prove(integer, text) to service_role;
grant execute on function backend.invariants_status() to service_role;
