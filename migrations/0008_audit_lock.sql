-- Writers of the audit log, and what changes the certificates of one cluster, wait for each other at rows instead of at advisory locks:
-- any login may take an advisory lock by its number and sit on it, while the lock of a row needs the right to change that row.
--
-- A hub of the version before goes on writing audit entries; the trigger below is the same for all. Of the locks of clusters it knows
-- only the old ones, so let no certificates be revoked by hand while replicas of both versions run. Some 2 s for a million entries, in
-- which nothing can be logged.

-- Whoever is writing an entry under the old lock ends first, and nobody begins before this is done.
lock table audit in share row exclusive mode;

-- One row, whose lock is the turn to write the next entry.
create table audit_turn (
    only_row boolean primary key default true check (only_row)
);
insert into audit_turn default values;

create function audit_turn_stays() returns trigger language plpgsql as $$
begin
    raise exception 'without the row of audit_turn nothing can be logged, so it stays' using errcode = 'check_violation';
end $$;
create trigger audit_turn_stays before delete on audit_turn for each row execute function audit_turn_stays();
create trigger audit_turn_is_not_truncated before truncate on audit_turn for each statement execute function audit_turn_stays();

-- As before: ids, times and links in the order of commits, whatever a writer gives; what is rolled back leaves no gap. The turn is
-- taken at the insert and kept to the writer's end. A writer that says nothing more is ended after 5 s, so that a replica which died
-- in between does not keep the others waiting; from an entry to its commit it is some milliseconds.
create or replace function audit_chain() returns trigger language plpgsql as $$
declare
    head record;
begin
    perform from audit_turn for update;
    if not found then
        raise exception 'audit_turn has lost its row: insert into audit_turn default values' using errcode = 'check_violation';
    end if;
    perform set_config('idle_in_transaction_session_timeout', '5s', true);
    select id, hash into head from audit order by id desc limit 1;
    new.id := coalesce(head.id, 0) + 1;
    new.at := clock_timestamp();
    new.previous_hash := coalesce(head.hash, decode(repeat('00', 32), 'hex'));
    new.hash := audit_hash(new);
    return new;
end $$;

-- What was refused or failed is found without reading what was done, over everything and of one namespace.
create index audit_by_result on audit (result, id) where result <> 'done';
create index audit_by_result_of_namespace on audit (split_part(policy, '/', 1), result, id) where result <> 'done';
drop index audit_not_done;

-- One row for each cluster whose certificates were ever changed: shared while one is issued, alone while they are revoked.
create table cluster_turns (
    cluster text primary key check (cluster ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')
);
