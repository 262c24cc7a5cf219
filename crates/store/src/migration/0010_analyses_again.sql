-- An analysis that failed for the machine's sake is tried again, a few times, and not before this instant.
ALTER TABLE dump ADD COLUMN tries bigint NOT NULL DEFAULT 0;
ALTER TABLE dump ADD COLUMN analyse_at bigint NOT NULL DEFAULT 0;
-- Dumps are asked for by how bad they may be.
CREATE INDEX dump_severity ON dump (tenant, severity, time, id) WHERE severity IS NOT NULL;
