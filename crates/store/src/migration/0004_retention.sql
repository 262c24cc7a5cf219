-- A blob that passes was stored for an execution and goes when nothing names it any more; whoever stores the same content
-- by hand keeps it. What was stored before anybody made the difference is kept.
ALTER TABLE blob ADD COLUMN passing bigint NOT NULL DEFAULT 0;

-- Which blobs an execution's recipe names; its chunks and its dump name theirs themselves.
CREATE TABLE blob_use (
    execution {text} NOT NULL,
    digest {text} NOT NULL,
    PRIMARY KEY (execution, digest)
){clustered};
CREATE INDEX blob_use_digest ON blob_use (digest);

-- Content to be looked at from an instant on: if nothing names it then, it goes.
CREATE TABLE blob_loose (
    tenant {text} NOT NULL,
    digest {text} NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (tenant, digest)
){clustered};
CREATE INDEX blob_loose_at ON blob_loose (at);

-- Executions that are gone and whose chunks are not, yet.
CREATE TABLE execution_gone (
    id {text} PRIMARY KEY,
    tenant {text} NOT NULL
){clustered};

CREATE INDEX execution_ended ON execution (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX execution_dump ON execution (dump) WHERE dump IS NOT NULL;
CREATE INDEX chunk_blob ON chunk (blob) WHERE blob IS NOT NULL;
