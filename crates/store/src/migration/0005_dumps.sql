-- A parcel is a blob; its number is taken from its digest, so that rows that name it are short.
CREATE TABLE parcel (
    tenant {text} NOT NULL,
    number bigint NOT NULL,
    digest {text} NOT NULL,
    size bigint NOT NULL,
    created_at bigint NOT NULL,
    -- Since when no dump names it; nothing while one does.
    loose_at bigint,
    PRIMARY KEY (tenant, number)
){clustered};
CREATE INDEX parcel_loose ON parcel (loose_at) WHERE loose_at IS NOT NULL;

-- A frame stands in the parcel that brought it first; it goes with that parcel and not before.
CREATE TABLE frame (
    tenant {text} NOT NULL,
    parcel bigint NOT NULL,
    place bigint NOT NULL,
    packed bigint NOT NULL,
    raw bigint NOT NULL,
    digest {bytes} NOT NULL,
    PRIMARY KEY (tenant, digest)
){clustered};
CREATE INDEX frame_parcel ON frame (tenant, parcel);

-- `time` is 0 where nobody knows it, so that both engines sort those first.
CREATE TABLE dump (
    id {text} PRIMARY KEY,
    tenant {text} NOT NULL,
    hash {text} NOT NULL,
    digest {text} NOT NULL,
    size bigint NOT NULL,
    manifest {text},
    kind {text} NOT NULL,
    state {text} NOT NULL,
    is_truncated bigint NOT NULL,
    name {text} NOT NULL,
    time bigint NOT NULL,
    cmd {text},
    psargs {text},
    pid bigint,
    node {text},
    platform {text},
    ticket {text},
    properties {text} NOT NULL,
    stack bigint,
    signature {text},
    signature_text {text},
    execution {text},
    report {text},
    created_by {text} NOT NULL,
    uploaded_at bigint NOT NULL
);
CREATE UNIQUE INDEX dump_hash ON dump (tenant, hash);
CREATE INDEX dump_tenant ON dump (tenant, id);
CREATE INDEX dump_time ON dump (tenant, time, id);
CREATE INDEX dump_uploaded ON dump (tenant, uploaded_at, id);
CREATE INDEX dump_kind ON dump (tenant, kind, time, id);
CREATE INDEX dump_state ON dump (tenant, state, time, id);
CREATE INDEX dump_cmd ON dump (tenant, cmd, time, id);
CREATE INDEX dump_node ON dump (tenant, node, time, id);
CREATE INDEX dump_platform ON dump (tenant, platform, time, id);
CREATE INDEX dump_ticket ON dump (tenant, ticket, time, id) WHERE ticket IS NOT NULL;
CREATE INDEX dump_signature ON dump (tenant, signature, time, id) WHERE signature IS NOT NULL;
CREATE INDEX dump_stack ON dump (tenant, stack, time, id) WHERE stack IS NOT NULL;
CREATE INDEX dump_execution ON dump (tenant, execution) WHERE execution IS NOT NULL;
CREATE INDEX dump_manifest ON dump (tenant, manifest) WHERE manifest IS NOT NULL;

CREATE TABLE dump_parcel (
    dump {text} NOT NULL,
    parcel bigint NOT NULL,
    tenant {text} NOT NULL,
    PRIMARY KEY (dump, parcel)
){clustered};
CREATE INDEX dump_parcel_parcel ON dump_parcel (tenant, parcel);

-- The properties that hold no others, by their path. A text is cut to what an index takes; a number is kept so that its
-- order is that of the column.
CREATE TABLE dump_property (
    dump {text} NOT NULL,
    ordinal bigint NOT NULL,
    tenant {text} NOT NULL,
    path {text} NOT NULL,
    kind {text} NOT NULL,
    text {text} NOT NULL,
    number bigint,
    PRIMARY KEY (dump, ordinal)
){clustered};
CREATE INDEX dump_property_text ON dump_property (tenant, path, text, dump);
CREATE INDEX dump_property_number ON dump_property (tenant, path, number, dump) WHERE number IS NOT NULL;

-- Stacks and the calls they are made of, each once in a tenant; their numbers are taken from their text.
CREATE TABLE stack (
    tenant {text} NOT NULL,
    number bigint NOT NULL,
    calls {text} NOT NULL,
    PRIMARY KEY (tenant, number)
){clustered};
CREATE TABLE call (
    tenant {text} NOT NULL,
    number bigint NOT NULL,
    text {text} NOT NULL,
    PRIMARY KEY (tenant, number)
){clustered};
CREATE INDEX call_text ON call (tenant, text);
CREATE TABLE stack_call (
    tenant {text} NOT NULL,
    call bigint NOT NULL,
    stack bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (tenant, call, stack, position)
){clustered};
