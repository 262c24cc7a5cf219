-- Whoever sends a dump names the packs that tell of its modules, by digest: of one build id there may be several, and a lie
-- about a module tells of no dump but the liar's own.
CREATE TABLE pack_named (
    tenant {text} NOT NULL,
    build_id {text} NOT NULL,
    digest {text} NOT NULL,
    size bigint NOT NULL,
    created_by {text} NOT NULL,
    created_at bigint NOT NULL,
    used_at bigint NOT NULL,
    PRIMARY KEY (tenant, build_id, digest)
){clustered};
INSERT INTO pack_named (tenant, build_id, digest, size, created_by, created_at, used_at)
    SELECT tenant, build_id, digest, size, created_by, created_at, used_at FROM pack;
CREATE TABLE pack_need (
    dump {text} NOT NULL,
    build_id {text} NOT NULL,
    digest {text} NOT NULL,
    tenant {text} NOT NULL,
    PRIMARY KEY (dump, build_id)
){clustered};
INSERT INTO pack_need (dump, build_id, digest, tenant)
    SELECT pack_use.dump, pack_use.build_id, pack.digest, pack_use.tenant
    FROM pack_use JOIN pack ON pack.tenant = pack_use.tenant AND pack.build_id = pack_use.build_id;
DROP TABLE pack_use;
DROP TABLE pack;
ALTER TABLE pack_named RENAME TO pack;
ALTER TABLE pack_need RENAME TO pack_use;
CREATE INDEX pack_used ON pack (used_at);
CREATE INDEX pack_use_pack ON pack_use (tenant, build_id, digest);
