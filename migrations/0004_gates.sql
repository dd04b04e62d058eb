-- What the load balancer thinks of pods that carry a readiness gate, by cluster: one row for each policy with such pods, written by
-- the engine that holds the lease and read by whichever replica an agent is connected to.
create table policy_gates (
    uid text primary key references policies (uid) on delete cascade,
    gates jsonb not null check (jsonb_typeof(gates) = 'object'),
    saved_at timestamptz not null
);
