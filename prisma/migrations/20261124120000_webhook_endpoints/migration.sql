-- DropIndex
DROP INDEX "deliveries_analysis_id_event_type_key";

-- AlterTable
ALTER TABLE "deliveries" ADD COLUMN     "claimed_until" TIMESTAMPTZ(3),
ADD COLUMN     "destination" TEXT NOT NULL DEFAULT '',
ADD COLUMN     "endpoint_id" UUID,
ADD COLUMN     "laboratory" TEXT NOT NULL DEFAULT 'default',
ADD COLUMN     "occurrence" TEXT,
ALTER COLUMN "analysis_id" DROP NOT NULL;

-- CreateTable
CREATE TABLE "delivery_attempts" (
    "id" BIGSERIAL NOT NULL,
    "delivery_id" UUID NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "duration_ms" INTEGER NOT NULL,
    "http_status" INTEGER,
    "error" TEXT,

    CONSTRAINT "delivery_attempts_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "webhook_endpoints" (
    "id" UUID NOT NULL,
    "laboratory" TEXT NOT NULL DEFAULT 'default',
    "url" TEXT NOT NULL,
    "description" TEXT,
    "event_types" TEXT[],
    "secret" BYTEA NOT NULL,
    "previous_secret" BYTEA,
    "previous_secret_until" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "disabled_at" TIMESTAMPTZ(3),
    "disabled_reason" TEXT,
    "last_delivered_at" TIMESTAMPTZ(3),

    CONSTRAINT "webhook_endpoints_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "failing_destinations" (
    "destination" TEXT NOT NULL,
    "since" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "failures" INTEGER NOT NULL DEFAULT 1,
    "last_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "failing_destinations_pkey" PRIMARY KEY ("destination")
);

-- CreateIndex
CREATE INDEX "delivery_attempts_delivery_id_idx" ON "delivery_attempts"("delivery_id");

-- CreateIndex
CREATE INDEX "webhook_endpoints_laboratory_id_idx" ON "webhook_endpoints"("laboratory", "id");

-- CreateIndex
CREATE UNIQUE INDEX "deliveries_occurrence_key" ON "deliveries"("occurrence");

-- CreateIndex
CREATE INDEX "deliveries_analysis_id_idx" ON "deliveries"("analysis_id");

-- CreateIndex
CREATE INDEX "deliveries_endpoint_id_id_idx" ON "deliveries"("endpoint_id", "id" DESC);

-- CreateIndex
CREATE INDEX "deliveries_destination_status_next_attempt_at_idx" ON "deliveries"("destination", "status", "next_attempt_at");

-- AddForeignKey
ALTER TABLE "deliveries" ADD CONSTRAINT "deliveries_endpoint_id_fkey" FOREIGN KEY ("endpoint_id") REFERENCES "webhook_endpoints"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "delivery_attempts" ADD CONSTRAINT "delivery_attempts_delivery_id_fkey" FOREIGN KEY ("delivery_id") REFERENCES "deliveries"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- Deliveries that wait while this runs keep a destination each of its own host, and what is finished needs none.
UPDATE "deliveries" SET "destination" = coalesce(substring("url" from '^[a-z]+://[^/?#]+'), '') WHERE "status" = 'pending';
