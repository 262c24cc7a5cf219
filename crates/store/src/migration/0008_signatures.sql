-- The stack that a dump was signed by; when, by whom and why its content was dropped; what was left out of it, as JSON.
ALTER TABLE dump ADD COLUMN signed bigint;
ALTER TABLE dump ADD COLUMN purged_at bigint;
ALTER TABLE dump ADD COLUMN purged_by {text};
ALTER TABLE dump ADD COLUMN purged_why {text};
ALTER TABLE dump ADD COLUMN redaction {text};
CREATE INDEX dump_signed ON dump (tenant, signed, signature) WHERE signed IS NOT NULL;
-- What retention looks through: dumps that have content and no ticket.
CREATE INDEX dump_loose_age ON dump (uploaded_at) WHERE manifest IS NOT NULL AND ticket IS NULL;
CREATE INDEX dump_loose_signature ON dump (tenant, signature, uploaded_at, id)
    WHERE manifest IS NOT NULL AND ticket IS NULL AND signature IS NOT NULL;

-- How many dumps of a tenant name it in `dump.signature` is in `dumps`, always. `stack` stands for it; `rules` are those under which a text last
-- took its name; `height` is how many stand below it, one merged into the other; `is_due` says that retention must look.
CREATE TABLE signature (
    tenant {text} NOT NULL,
    id {text} NOT NULL,
    text {text} NOT NULL,
    title {text},
    state {text} NOT NULL,
    merged_into {text},
    stack bigint NOT NULL,
    dumps bigint NOT NULL,
    first_seen bigint NOT NULL,
    last_seen bigint NOT NULL,
    fixed_at bigint,
    rules {text} NOT NULL,
    height bigint NOT NULL,
    is_due bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (tenant, id)
){clustered};
CREATE INDEX signature_seen ON signature (tenant, last_seen, id) WHERE state <> 'merged';
CREATE INDEX signature_state ON signature (tenant, state, last_seen, id);
CREATE INDEX signature_part ON signature (tenant, merged_into) WHERE merged_into IS NOT NULL;
CREATE INDEX signature_due ON signature (tenant, id) WHERE is_due = 1;

-- Which signature a text or a shape of stacks belongs to, where that is not the one whose id is the text's. `kind` is
-- `text` (a change of rules left it) or `shape` (somebody put it there).
CREATE TABLE signature_alias (
    tenant {text} NOT NULL,
    kind {text} NOT NULL,
    name {text} NOT NULL,
    signature {text} NOT NULL,
    made_by {text} NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (tenant, kind, name)
){clustered};

-- Stacks that dumps were signed by, each once in a tenant. The shape is what stays the same whatever the rules.
CREATE TABLE signed_stack (
    tenant {text} NOT NULL,
    number bigint NOT NULL,
    shape {text} NOT NULL,
    stack {text} NOT NULL,
    PRIMARY KEY (tenant, number)
){clustered};
CREATE INDEX signed_stack_shape ON signed_stack (tenant, shape);

-- What rules make of each: `id` is what they call it, `signature` where its dumps are, `is_moving` that some may have to go
-- elsewhere.
CREATE TABLE signing (
    tenant {text} NOT NULL,
    number bigint NOT NULL,
    id {text} NOT NULL,
    text {text} NOT NULL,
    proto {text} NOT NULL,
    rules {text} NOT NULL,
    explanation {text} NOT NULL,
    signature {text} NOT NULL,
    dumps bigint NOT NULL,
    is_moving bigint NOT NULL,
    PRIMARY KEY (tenant, number)
){clustered};
CREATE INDEX signing_signature ON signing (tenant, signature, number);
CREATE INDEX signing_moving ON signing (tenant, number) WHERE is_moving = 1;

-- The file of rules that a tenant lays over the house's.
CREATE TABLE signature_rules (
    tenant {text} PRIMARY KEY,
    name {text} NOT NULL,
    digest {text} NOT NULL,
    rules {text} NOT NULL,
    made_by {text} NOT NULL,
    at bigint NOT NULL
){clustered};
