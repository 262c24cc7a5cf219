-- When a pack was last asked for, and which dumps it told of: one that no dump needs goes by rule.
ALTER TABLE pack ADD COLUMN used_at bigint NOT NULL DEFAULT {now};
CREATE INDEX pack_used ON pack (used_at);
CREATE TABLE pack_use (
    dump {text} NOT NULL,
    build_id {text} NOT NULL,
    tenant {text} NOT NULL,
    PRIMARY KEY (dump, build_id)
){clustered};
CREATE INDEX pack_use_pack ON pack_use (tenant, build_id);
