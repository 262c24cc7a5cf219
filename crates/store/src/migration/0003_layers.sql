-- When content was last stored for an image; nothing where the tenant keeps it for itself. The former goes when no image
-- needs it any more, the latter stays, whatever images are made of it.
ALTER TABLE blob ADD COLUMN layer_at bigint;
CREATE INDEX blob_layer ON blob (tenant, digest) WHERE layer_at IS NOT NULL;
