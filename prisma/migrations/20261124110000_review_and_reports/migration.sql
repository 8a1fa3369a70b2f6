-- AlterTable
ALTER TABLE "cells" ADD COLUMN     "reviewed_at" TIMESTAMPTZ(3),
ADD COLUMN     "reviewed_by" TEXT,
ADD COLUMN     "reviewed_class" TEXT;

-- CreateTable
CREATE TABLE "review_changes" (
    "analysis_id" UUID NOT NULL,
    "revision" INTEGER NOT NULL,
    "kind" TEXT NOT NULL,
    "reviewer" TEXT NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL,
    "comment" TEXT,
    "image_index" INTEGER,
    "cell_number" INTEGER,
    "class_before" TEXT,
    "class_after" TEXT,
    "status_before" TEXT NOT NULL,
    "status_after" TEXT NOT NULL,
    "differential" JSON,

    CONSTRAINT "review_changes_pkey" PRIMARY KEY ("analysis_id","revision")
);

-- CreateTable
CREATE TABLE "report_deliveries" (
    "id" UUID NOT NULL,
    "analysis_id" UUID NOT NULL,
    "channel" TEXT NOT NULL,
    "revision" INTEGER NOT NULL,
    "order_key" TEXT NOT NULL,
    "body" TEXT NOT NULL,
    "status" "delivery_status" NOT NULL DEFAULT 'pending',
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "refusals" INTEGER NOT NULL DEFAULT 0,
    "next_attempt_at" TIMESTAMPTZ(3),
    "last_answer" TEXT,
    "last_error" TEXT,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "delivered_at" TIMESTAMPTZ(3),

    CONSTRAINT "report_deliveries_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "report_deliveries_channel_order_key_id_idx" ON "report_deliveries"("channel", "order_key", "id");

-- CreateIndex
CREATE INDEX "report_deliveries_status_next_attempt_at_idx" ON "report_deliveries"("status", "next_attempt_at");

-- CreateIndex
CREATE UNIQUE INDEX "report_deliveries_analysis_id_channel_revision_key" ON "report_deliveries"("analysis_id", "channel", "revision");

-- AddForeignKey
ALTER TABLE "review_changes" ADD CONSTRAINT "review_changes_analysis_id_fkey" FOREIGN KEY ("analysis_id") REFERENCES "analyses"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "report_deliveries" ADD CONSTRAINT "report_deliveries_analysis_id_fkey" FOREIGN KEY ("analysis_id") REFERENCES "analyses"("id") ON DELETE CASCADE ON UPDATE CASCADE;
