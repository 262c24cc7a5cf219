-- An execution's dump is a dump of its own from now on. Cores that were kept as mere blobs stay their tenant's, by their
-- digests, which the log still names.
UPDATE blob SET passing = 0, layer_at = NULL WHERE EXISTS
    (SELECT 1 FROM execution WHERE execution.tenant = blob.tenant AND execution.dump = blob.digest);
UPDATE execution SET dump = NULL WHERE dump IS NOT NULL;

-- Which execution analyses it, or did: what another one says of it does not count.
ALTER TABLE dump ADD COLUMN analysis {text};
ALTER TABLE dump ADD COLUMN class {text};
ALTER TABLE dump ADD COLUMN severity {text};
ALTER TABLE dump ADD COLUMN cause {text};
CREATE INDEX dump_unanalysed ON dump (id) WHERE state = 'received' AND analysis IS NULL AND manifest IS NOT NULL;
CREATE INDEX dump_class ON dump (tenant, class, time, id) WHERE class IS NOT NULL;
