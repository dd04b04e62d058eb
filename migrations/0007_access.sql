-- Who may do what: an audit log in which every entry is chained to the one before, tokens and certificates, the authorities that
-- certificates come from.
--
-- A hub of the version before goes on writing audit entries; the trigger chains them too. It lets agents in without certificates and
-- knows no tokens: before a rollback give it the flags that it needs.

-- Where a call came from; empty: the hub by itself, or an entry from before.
alter table audit add column source text not null default '' check (length(source) <= 256);
alter table audit add column result text not null default 'done' check (result in ('done', 'refused', 'failed'));
alter table audit add column previous_hash bytea;
alter table audit add column hash bytea;

-- A field as it goes into the hash: its length in octets, a colon, its octets. So no two lists of fields give the same input.
create function audit_field(field text) returns bytea language sql stable as $$
    select convert_to(octet_length(convert_to(field, 'UTF8'))::text || ':', 'UTF8') || convert_to(field, 'UTF8')
$$;

-- The hash of an entry; core/src/audit.rs has the same, and docs/audit.md says it in words.
create function audit_hash(entry audit) returns bytea language sql stable as $$
    select sha256(
        entry.previous_hash
        || audit_field(entry.id::text)
        || audit_field((extract(epoch from entry.at) * 1000000)::bigint::text)
        || audit_field(entry.actor) || audit_field(entry.action) || audit_field(entry.policy)
        || audit_field(coalesce(entry.shift_id, '')) || audit_field(entry.detail::text) || audit_field(entry.reason)
        || audit_field(entry.request_id) || audit_field(entry.source) || audit_field(entry.result)
    )
$$;

-- Whatever a writer gives as id, time and hashes: here they are made, one writer after the other until its end. So ids, times and
-- links are in the order of commits, and what is rolled back leaves no gap. The lock is taken at the insert, the last lock of every
-- writer but for the answer to its request id: whoever holds it waits for nobody who waits for it.
create function audit_chain() returns trigger language plpgsql as $$
declare
    head record;
begin
    -- 'audit' as a number; the lock ends with the transaction.
    perform pg_advisory_xact_lock(418581342580);
    select id, hash into head from audit order by id desc limit 1;
    new.id := coalesce(head.id, 0) + 1;
    new.at := clock_timestamp();
    new.previous_hash := coalesce(head.hash, decode(repeat('00', 32), 'hex'));
    new.hash := audit_hash(new);
    return new;
end $$;

-- Entries from before are chained as they stand. Nobody writes meanwhile: the changes of the table above hold it. Some 20 s for a
-- million entries.
alter table audit disable trigger audit_only_grows;
do $$
declare
    entry audit;
    previous bytea := decode(repeat('00', 32), 'hex');
begin
    for entry in select * from audit order by id loop
        entry.previous_hash := previous;
        entry.hash := audit_hash(entry);
        update audit set previous_hash = entry.previous_hash, hash = entry.hash where id = entry.id;
        previous := entry.hash;
    end loop;
end $$;
alter table audit enable trigger audit_only_grows;

alter table audit alter column previous_hash set not null;
alter table audit alter column hash set not null;
-- One successor each: a fork is refused even where the lock was not taken.
alter table audit add constraint audit_has_no_fork unique (previous_hash);
alter table audit add constraint audit_hashes_are_whole check (length(previous_hash) = 32 and length(hash) = 32);
create trigger audit_chain before insert on audit for each row execute function audit_chain();
create index audit_not_done on audit (id) where result <> 'done';

-- One row: counts the transactions that change what replicas keep in memory about access (service tokens, revocations, authorities).
-- It is locked first in each of them.
create table access_version (
    only_row boolean primary key default true check (only_row),
    version bigint not null check (version >= 0)
);
insert into access_version (version) values (0);

-- What gives the agent of a cluster its first certificate, once. Only the hash of the secret is here.
create table join_tokens (
    id text primary key check (id ~ '^[a-z2-7]{12}$'),
    hash bytea not null unique check (length(hash) = 32),
    cluster text not null check (cluster ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    created_by text not null check (length(created_by) between 1 and 256),
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at timestamptz,
    -- SHA-256 of the public key (SubjectPublicKeyInfo, DER) that it was used with.
    used_by_key bytea check (length(used_by_key) = 32),
    revoked_at timestamptz,
    revoked_by text check (length(revoked_by) between 1 and 256),
    constraint join_token_is_short check (expires_at > created_at and expires_at <= created_at + interval '1 day'),
    constraint join_token_is_used_with_a_key check ((used_at is null) = (used_by_key is null)),
    constraint join_token_is_revoked_by_somebody check ((revoked_at is null) = (revoked_by is null))
);
create index join_tokens_by_age on join_tokens (created_at);
create index join_tokens_by_cluster on join_tokens (cluster, created_at);

create function join_tokens_keep_order() returns trigger language plpgsql as $$
begin
    if (new.id, new.hash, new.cluster, new.created_by, new.created_at, new.expires_at)
        is distinct from (old.id, old.hash, old.cluster, old.created_by, old.created_at, old.expires_at) then
        raise exception 'join token % is used or revoked, and changed in no other way', old.id using errcode = 'check_violation';
    end if;
    if old.used_by_key is not null and (new.used_by_key, new.used_at) is distinct from (old.used_by_key, old.used_at) then
        raise exception 'join token % was used already', old.id using errcode = 'check_violation';
    end if;
    if old.revoked_at is not null and (new.revoked_at is null or new.used_by_key is distinct from old.used_by_key) then
        raise exception 'join token % is revoked for good', old.id using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger join_tokens_keep_order before update on join_tokens for each row execute function join_tokens_keep_order();

-- The authorities of agents' certificates: the hub's own, with their keys sealed, and those from files, without.
create table authorities (
    -- The first 16 hexadecimal digits of the certificate's SHA-256.
    id text primary key check (id ~ '^[0-9a-f]{16}$'),
    certificate_pem text not null unique check (length(certificate_pem) between 1 and 65536),
    -- Null: the key is in a file. Else AES-256-GCM: 12 octets of nonce, the key in PKCS #8, 16 octets of tag.
    sealed_key bytea check (length(sealed_key) between 29 and 8192),
    created_at timestamptz not null,
    -- From then on certificates come from it; replicas trust it as soon as it is here. The youngest one issues, the others are trusted
    -- until what they issued has ended.
    issues_from timestamptz not null,
    not_after timestamptz not null,
    constraint authority_is_trusted_before_it_issues check (issues_from >= created_at and not_after > created_at)
);

create function authorities_keep_order() returns trigger language plpgsql as $$
begin
    if (new.id, new.certificate_pem, new.sealed_key, new.created_at, new.not_after)
        is distinct from (old.id, old.certificate_pem, old.sealed_key, old.created_at, old.not_after) then
        raise exception 'authority % may issue anew, and is changed in no other way', old.id using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger authorities_keep_order before update on authorities for each row execute function authorities_keep_order();

-- Every certificate that was issued to an agent, and others that agents showed or that were revoked: a tool that has the authority's
-- key makes some, and so did the hub before its database was restored from a backup.
create table agent_certificates (
    serial text primary key check (serial ~ '^[0-9a-f]{1,40}$'),
    cluster text not null check (cluster ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    fingerprint text unique check (fingerprint ~ '^sha256:[0-9a-f]{64}$'),
    authority text references authorities (id),
    -- The agent process that asked, as it names itself.
    instance text not null check (length(instance) <= 128),
    -- 'seen': it was not issued here, and an agent showed it. 'none': it was revoked before any agent showed it.
    proof text not null check (proof in ('join-token', 'service-account', 'certificate', 'seen', 'none')),
    -- The serial of the certificate, the id of the join token or the subject of the ServiceAccount token that was the proof.
    proof_id text not null check (length(proof_id) <= 256),
    issued_at timestamptz not null,
    not_after timestamptz not null check (not_after > issued_at),
    revoked_at timestamptz,
    revoked_by text check (length(revoked_by) between 1 and 256),
    constraint certificate_is_revoked_by_somebody check ((revoked_at is null) = (revoked_by is null)),
    constraint certificate_is_known check (proof = 'none' or (fingerprint is not null and authority is not null))
);
create index agent_certificates_by_cluster on agent_certificates (cluster, issued_at);
create index agent_certificates_by_authority on agent_certificates (authority, not_after);
create index agent_certificates_by_age on agent_certificates (issued_at);
create index agent_certificates_by_end on agent_certificates (not_after);
create index agent_certificates_revoked on agent_certificates (not_after) where revoked_at is not null;

create function agent_certificates_keep_order() returns trigger language plpgsql as $$
begin
    if (new.serial, new.cluster, new.fingerprint, new.authority, new.instance, new.proof, new.proof_id, new.issued_at, new.not_after)
        is distinct from
        (old.serial, old.cluster, old.fingerprint, old.authority, old.instance, old.proof, old.proof_id, old.issued_at, old.not_after)
        or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at) then
        raise exception 'certificate % is revoked once, and changed in no other way', old.serial using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger agent_certificates_keep_order before update on agent_certificates
    for each row execute function agent_certificates_keep_order();

-- Names that were ever given to a service token: what the audit log says of one must not be read as of another.
create table service_token_names (
    name text primary key check (name ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    taken_at timestamptz not null
);

-- Programs' identities. Only the hash of the secret is here.
create table service_tokens (
    name text primary key references service_token_names (name),
    id text not null unique check (id ~ '^[a-z2-7]{12}$'),
    hash bytea not null unique check (length(hash) = 32),
    grants jsonb not null check (jsonb_typeof(grants) = 'array' and jsonb_array_length(grants) between 1 and 20),
    created_by text not null check (length(created_by) between 1 and 256),
    created_at timestamptz not null,
    expires_at timestamptz not null,
    last_used_at timestamptz,
    revoked_at timestamptz,
    revoked_by text check (length(revoked_by) between 1 and 256),
    constraint service_token_ends check (expires_at > created_at and expires_at <= created_at + interval '366 days'),
    constraint service_token_is_revoked_by_somebody check ((revoked_at is null) = (revoked_by is null))
);
create index service_tokens_by_age on service_tokens (created_at);

create function service_tokens_keep_order() returns trigger language plpgsql as $$
begin
    if (new.name, new.id, new.hash, new.grants, new.created_by, new.created_at, new.expires_at)
        is distinct from (old.name, old.id, old.hash, old.grants, old.created_by, old.created_at, old.expires_at)
        or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at) then
        raise exception 'service token % is used or revoked, and changed in no other way', old.name using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger service_tokens_keep_order before update on service_tokens for each row execute function service_tokens_keep_order();

-- Sessions: which agent process superseded which.
-- (section of the agents' streams: begin)
-- Ids of processes that were relieved, the last one at the end; core/src/access/turns.rs says what follows from it.
alter table clusters add column relieved jsonb not null default '[]'
    check (jsonb_typeof(relieved) = 'array' and jsonb_array_length(relieved) <= 16);
-- (section of the agents' streams: end)
