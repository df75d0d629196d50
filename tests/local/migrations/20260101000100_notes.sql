-- A small schema for the tests of the embedded stack, so that they do not depend on the product's.
alter default privileges revoke execute on functions from public, anon, authenticated, service_role;

create schema backend;
grant usage on schema backend to service_role;

create table public.notes (
  id bigint generated always as identity primary key,
  user_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  body text not null,
  data jsonb,
  amount numeric(20, 6) not null default 0,
  created_at timestamptz not null default now()
);

create index on public.notes (user_id);
alter table public.notes enable row level security;
grant select, insert on public.notes to authenticated;
grant select on public.notes to service_role;

create policy "People read their own notes" on public.notes
for select to authenticated using (user_id = (select auth.uid()));

create policy "People write their own notes" on public.notes
for insert to authenticated with check (user_id = (select auth.uid()));

-- No role but the owner has any privilege on this one.
create table public.closed (id integer primary key);
alter table public.closed enable row level security;

create function public.who_am_i() returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'uid', auth.uid(), 'role', auth.role(), 'email', auth.email(), 'session', auth.jwt() ->> 'session_id'
  )
$$;
grant execute on function public.who_am_i() to anon, authenticated;

create function backend.echo(p_data jsonb) returns jsonb
language sql stable set search_path = ''
as $$ select jsonb_build_object('type', jsonb_typeof(p_data), 'data', p_data) $$;
grant execute on function backend.echo(jsonb) to service_role;

create function backend.amount() returns jsonb
language sql stable set search_path = ''
as $$ select jsonb_build_object('exact', 12345678901234.123450::numeric(20, 6), 'price', 1.50::numeric(20, 2)) $$;
grant execute on function backend.amount() to service_role;

create function backend.refuse() returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  raise exception using errcode = 'PT402', message = 'No credit.', detail = '{"code": "insufficient_credits"}';
end
$$;
grant execute on function backend.refuse() to service_role;

-- What the functions app logs in as over the direct transport; the foundation migration makes it.
create role quernel_functions nologin inherit;
grant service_role to quernel_functions;
