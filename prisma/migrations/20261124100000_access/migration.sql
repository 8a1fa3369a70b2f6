-- AlterTable
ALTER TABLE "analyses" ADD COLUMN     "images_removed_at" TIMESTAMPTZ(3),
ADD COLUMN     "laboratory" TEXT NOT NULL DEFAULT 'default',
ADD COLUMN     "masks_removed_at" TIMESTAMPTZ(3),
ADD COLUMN     "request_id" TEXT,
ADD COLUMN     "traceparent" TEXT,
ADD COLUMN     "tracestate" TEXT;

-- AlterTable
ALTER TABLE "images" ADD COLUMN     "duplicate_of_analysis" UUID,
ADD COLUMN     "duplicate_of_index" INTEGER;

-- CreateTable
CREATE TABLE "api_keys" (
    "id" TEXT NOT NULL,
    "laboratory" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "scopes" TEXT[],
    "secret_hash" BYTEA NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "created_by" TEXT,
    "expires_at" TIMESTAMPTZ(3),
    "revoked_at" TIMESTAMPTZ(3),
    "last_used_at" TIMESTAMPTZ(3),
    "replaced_by" TEXT,

    CONSTRAINT "api_keys_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "audit_entries" (
    "id" UUID NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL,
    "laboratory" TEXT,
    "actor_kind" TEXT NOT NULL,
    "actor_id" TEXT,
    "operation" TEXT NOT NULL,
    "method" TEXT,
    "route" TEXT,
    "subject_id" TEXT,
    "status" INTEGER,
    "outcome" TEXT NOT NULL,
    "remote" TEXT,
    "request_id" TEXT,

    CONSTRAINT "audit_entries_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "idempotency_keys" (
    "laboratory" TEXT NOT NULL,
    "key_hash" BYTEA NOT NULL,
    "fingerprint" BYTEA NOT NULL,
    "analysis_id" UUID NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "idempotency_keys_pkey" PRIMARY KEY ("laboratory","key_hash")
);

-- CreateIndex
CREATE INDEX "api_keys_laboratory_id_idx" ON "api_keys"("laboratory", "id");

-- CreateIndex
CREATE INDEX "audit_entries_laboratory_id_idx" ON "audit_entries"("laboratory", "id" DESC);

-- CreateIndex
CREATE INDEX "idempotency_keys_created_at_idx" ON "idempotency_keys"("created_at");

-- CreateIndex
CREATE INDEX "analyses_laboratory_id_idx" ON "analyses"("laboratory", "id" DESC);

-- CreateIndex
CREATE INDEX "images_sha256_analysis_id_index_idx" ON "images"("sha256", "analysis_id", "index");

-- The audit trail only grows. Deleting is left to the purge by age, which says so in its transaction.
CREATE FUNCTION "audit_entries_append_only"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('leukodiff.audit_purge', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER "audit_entries_no_change" BEFORE UPDATE OR DELETE ON "audit_entries"
    FOR EACH ROW EXECUTE FUNCTION "audit_entries_append_only"();

CREATE TRIGGER "audit_entries_no_truncate" BEFORE TRUNCATE ON "audit_entries"
    FOR EACH STATEMENT EXECUTE FUNCTION "audit_entries_append_only"();

-- The purge by age looks for what is old and still there: rows that it has dealt with leave these indexes.
CREATE INDEX "analyses_images_kept_idx" ON "analyses"("created_at") WHERE "images_removed_at" IS NULL;
CREATE INDEX "analyses_masks_kept_idx" ON "analyses"("created_at") WHERE "masks_removed_at" IS NULL;
