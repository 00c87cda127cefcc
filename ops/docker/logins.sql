-- Makes the logins of a fleet, or gives them another password: psql --file ops/docker/logins.sql,
-- as the owner, after `producer migrate --roles`. Passwords come from the environment, so that
-- none is on a command line; psql of Postgres 14 or later.
\set ON_ERROR_STOP on
\set QUIET on
\getenv worker_password WORKER_PASSWORD
\getenv producer_password PRODUCER_PASSWORD
\getenv reader_password READER_PASSWORD

-- A password must reach no log of the server, in clear.
set log_statement = 'none';
set log_min_error_statement = 'panic';
set log_min_duration_statement = -1;

select format('create role %I login', name)
  from unnest(array['fleet', 'submitter', 'reports']) as name
 where not exists (select from pg_roles where rolname = name) \gexec

alter role fleet password :'worker_password';
alter role submitter password :'producer_password';
alter role reports password :'reader_password';

grant callscribe_worker to fleet;
grant callscribe_producer to submitter;
grant callscribe_reader to reports;
