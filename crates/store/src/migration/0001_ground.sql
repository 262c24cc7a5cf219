-- The log's own row: the newest number, the floor below which nothing is kept, and the segment that is being filled.
CREATE TABLE log (
    one bigint PRIMARY KEY CHECK (one = 1),
    head bigint NOT NULL,
    floor bigint NOT NULL,
    segment bigint NOT NULL,
    first_seq bigint NOT NULL,
    first_at bigint NOT NULL,
    last_at bigint NOT NULL,
    bytes bigint NOT NULL
);
INSERT INTO log (one, head, floor, segment, first_seq, first_at, last_at, bytes) VALUES (1, 0, 0, 1, 1, {now}, {now}, 0);

CREATE TABLE log_segment (
    number bigint PRIMARY KEY,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    last_at bigint NOT NULL,
    bytes bigint NOT NULL
);

CREATE TABLE tenant (
    id {text} PRIMARY KEY,
    name {text} NOT NULL,
    created_at bigint NOT NULL
);
-- Header names, in which foreign issuers may put a tenant, know no case: no two tenants differ by case alone.
CREATE UNIQUE INDEX tenant_name ON tenant (lower(name));

CREATE TABLE "user" (
    id {text} PRIMARY KEY,
    tenant {text} NOT NULL,
    name {text} NOT NULL,
    role {text} NOT NULL,
    state {text} NOT NULL,
    created_at bigint NOT NULL,
    UNIQUE (tenant, name)
);

CREATE TABLE token (
    id {text} PRIMARY KEY,
    tenant {text} NOT NULL,
    user_id {text} NOT NULL,
    name {text} NOT NULL,
    scopes {text} NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    used_at bigint,
    revoked_at bigint,
    hash {bytes} NOT NULL
);
CREATE INDEX token_tenant ON token (tenant, id);

CREATE TABLE blob (
    tenant {text} NOT NULL,
    digest {text} NOT NULL,
    size bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE TABLE lane (
    tenant {text} NOT NULL,
    name {text} NOT NULL,
    next bigint NOT NULL,
    head {text},
    PRIMARY KEY (tenant, name)
);

CREATE TABLE execution (
    id {text} PRIMARY KEY,
    tenant {text} NOT NULL,
    state {text} NOT NULL,
    ready bigint NOT NULL,
    origin_kind {text} NOT NULL,
    origin_id {text},
    lane {text},
    position bigint,
    class bigint NOT NULL,
    recipe {text} NOT NULL,
    attempt bigint NOT NULL,
    losses bigint NOT NULL,
    node {text},
    session {text},
    created_by {text} NOT NULL,
    created_at bigint NOT NULL,
    started_at bigint,
    ended_at bigint,
    outcome {text},
    usage {text}
){clustered};
CREATE INDEX execution_tenant ON execution (tenant, state, id);
CREATE INDEX execution_ready ON execution (class, tenant, created_at, id) WHERE ready = 1;
CREATE INDEX execution_lane ON execution (tenant, lane, position) WHERE state = 'queued' AND lane IS NOT NULL;
CREATE INDEX execution_session ON execution (session) WHERE session IS NOT NULL;
