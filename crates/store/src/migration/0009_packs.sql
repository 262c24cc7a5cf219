-- Unwind packs of modules, by build id: the first that was sent stays.
CREATE TABLE pack (
    tenant {text} NOT NULL,
    build_id {text} NOT NULL,
    digest {text} NOT NULL,
    size bigint NOT NULL,
    created_by {text} NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (tenant, build_id)
){clustered};
