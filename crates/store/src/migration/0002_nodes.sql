CREATE TABLE node (
    id {text} PRIMARY KEY,
    tenant {text} NOT NULL,
    name {text} NOT NULL,
    state {text} NOT NULL,
    hold {text},
    session {text},
    offer {text} NOT NULL,
    created_by {text} NOT NULL,
    created_at bigint NOT NULL,
    joined_at bigint
);
CREATE UNIQUE INDEX node_name ON node (tenant, name) WHERE state <> 'gone';

-- A session is here for as long as it may hold anything: whoever deletes its row gives back what it holds.
CREATE TABLE session (
    id {text} PRIMARY KEY,
    node {text} NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX session_expires ON session (expires_at);

-- `total` is how long the attempt's chunks are up to this one, so that the last row tells how much there is.
CREATE TABLE chunk (
    execution {text} NOT NULL,
    attempt bigint NOT NULL,
    number bigint NOT NULL,
    stream {text} NOT NULL,
    at bigint NOT NULL,
    size bigint NOT NULL,
    total bigint NOT NULL,
    is_end bigint NOT NULL,
    blob {text},
    bytes {bytes},
    PRIMARY KEY (execution, attempt, number)
);

CREATE TABLE image (
    id {text} PRIMARY KEY,
    tenant {text} NOT NULL,
    name {text} NOT NULL,
    state {text} NOT NULL,
    source {text} NOT NULL,
    plain_http bigint NOT NULL,
    execution {text} NOT NULL,
    manifest {text},
    digest {text},
    cause {text},
    created_by {text} NOT NULL,
    created_at bigint NOT NULL,
    ended_at bigint
);
CREATE INDEX image_name ON image (tenant, name, id);
CREATE INDEX image_digest ON image (tenant, digest, id) WHERE digest IS NOT NULL;
CREATE INDEX image_tenant ON image (tenant, state, id);

CREATE TABLE registry (
    tenant {text} NOT NULL,
    host {text} NOT NULL,
    account {text} NOT NULL,
    created_at bigint NOT NULL,
    secret {bytes} NOT NULL,
    PRIMARY KEY (tenant, host)
);

ALTER TABLE execution ADD COLUMN dump {text};
ALTER TABLE execution ADD COLUMN image_id {text};
ALTER TABLE execution ADD COLUMN shape {text} NOT NULL DEFAULT '';
-- The queue is searched by what executions need, and within that by their age.
DROP INDEX execution_ready;
CREATE INDEX execution_ready ON execution (class, tenant, shape, created_at, id) WHERE ready = 1;
CREATE INDEX execution_cancelling ON execution (session) WHERE state = 'cancelling';
CREATE INDEX execution_image ON execution (tenant, image_id) WHERE image_id IS NOT NULL AND ended_at IS NULL;

-- Content that nobody has any more and that is about to be removed: while its name stands here, nobody gets it.
CREATE TABLE blob_removal (
    digest {text} PRIMARY KEY,
    at bigint NOT NULL
);
CREATE INDEX blob_digest ON blob (digest);
