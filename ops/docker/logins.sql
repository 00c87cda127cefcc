-- Makes the logins of a fleet, or gives them another password: psql --file ops/docker/logins.sql,
-- as the owner, after `producer migrate --roles`. Passwords come from the environment, so that
-- none is on a command line; psql of Postgres 14 or later.
\set ON_ERROR_STOP on
\set QUIET on
\getenv worker_password WORKER_PASSWORD
\getenv producer_password PRODUCER_PASSWORD
\getenv reader_password READER_PASSWORD

-- A password must reach no log of the server, in clear. A superuser can see to it; whoever is none
-- sets passwords here only where the server logs no statements by itself.
select rolsuper as is_superuser from pg_roles where rolname = current_user \gset
\if :is_superuser
  set log_statement = 'none';
  set log_min_error_statement = 'panic';
  set log_min_duration_statement = -1;
\endif
select current_setting('log_statement') = 'none'
       and current_setting('log_min_duration_statement') = '-1' as is_unlogged \gset

select format('create role %I login', name)
  from unnest(array['fleet', 'submitter', 'reports']) as name
 where not exists (select from pg_roles where rolname = name) \gexec

-- Whoever may not change them learns it here, by statements that may be logged.
alter role fleet login;
alter role submitter login;
alter role reports login;

\if :is_unlogged
  alter role fleet password :'worker_password';
  alter role submitter password :'producer_password';
  alter role reports password :'reader_password';
\else
  \warn 'This server logs statements, so no password was set. Set each with psql, which sends it encrypted:'
  \warn '  \\password fleet     \\password submitter     \\password reports'
\endif

-- Where a pooler (pgbouncer) lies before the ledger, these limits are in force; else every session
-- asks for its own. Of a fleet whose CALLSCRIBE_LEASE_S is another, producer migrate --roles sets them.
select format('alter role %I in database %I set %s = %L', login, current_database(), name, value)
  from (values ('fleet', '60s'), ('submitter', '900s'), ('reports', '900s')) as own (login, answer)
 cross join lateral (values ('idle_in_transaction_session_timeout', '60s'),
                            ('lock_timeout', '30s'), ('statement_timeout', answer)
                    ) as limits (name, value) \gexec

grant callscribe_worker to fleet;
grant callscribe_producer to submitter;
grant callscribe_reader to reports;
