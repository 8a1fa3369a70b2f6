-- CreateSchema
CREATE SCHEMA IF NOT EXISTS "public";

-- CreateEnum
CREATE TYPE "status" AS ENUM ('queued', 'processing', 'completed', 'failed');

-- CreateEnum
CREATE TYPE "priority" AS ENUM ('routine', 'stat');

-- CreateEnum
CREATE TYPE "delivery_status" AS ENUM ('pending', 'delivered', 'failed');

-- CreateTable
CREATE TABLE "analyses" (
    "id" UUID NOT NULL,
    "status" "status" NOT NULL DEFAULT 'queued',
    "priority" "priority" NOT NULL DEFAULT 'routine',
    "accession_number" TEXT,
    "specimen_id" TEXT,
    "order_id" TEXT,
    "subject_id" TEXT,
    "site" TEXT,
    "collected_at" TIMESTAMPTZ(3),
    "callback_url" TEXT,
    "microns_per_pixel" DOUBLE PRECISION,
    "target_cells" INTEGER NOT NULL DEFAULT 100,
    "wbc_count" DOUBLE PRECISION,
    "metadata" JSON,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "started_at" TIMESTAMPTZ(3),
    "completed_at" TIMESTAMPTZ(3),
    "total_wbc" INTEGER,
    "review_required" BOOLEAN,
    "problem" JSON,
    "result" JSON,

    CONSTRAINT "analyses_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "images" (
    "analysis_id" UUID NOT NULL,
    "index" INTEGER NOT NULL,
    "filename" TEXT NOT NULL,
    "content_type" TEXT NOT NULL,
    "byte_length" INTEGER NOT NULL,
    "sha256" CHAR(64) NOT NULL,
    "width" INTEGER,
    "height" INTEGER,
    "status" "status" NOT NULL DEFAULT 'queued',
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "started_at" TIMESTAMPTZ(3),
    "completed_at" TIMESTAMPTZ(3),
    "microns_per_pixel" DOUBLE PRECISION,
    "scale_source" TEXT,
    "scale_confidence" DOUBLE PRECISION,
    "quality" JSON,
    "saliency_consistency" DOUBLE PRECISION,
    "cell_count" INTEGER,
    "timings_ms" JSON,
    "model" JSON,
    "problem" JSON,

    CONSTRAINT "images_pkey" PRIMARY KEY ("analysis_id","index")
);

-- CreateTable
CREATE TABLE "image_files" (
    "analysis_id" UUID NOT NULL,
    "image_index" INTEGER NOT NULL,
    "bytes" BYTEA NOT NULL,

    CONSTRAINT "image_files_pkey" PRIMARY KEY ("analysis_id","image_index")
);

-- CreateTable
CREATE TABLE "image_saliency" (
    "analysis_id" UUID NOT NULL,
    "image_index" INTEGER NOT NULL,
    "png" BYTEA NOT NULL,

    CONSTRAINT "image_saliency_pkey" PRIMARY KEY ("analysis_id","image_index")
);

-- CreateTable
CREATE TABLE "cells" (
    "analysis_id" UUID NOT NULL,
    "image_index" INTEGER NOT NULL,
    "number" INTEGER NOT NULL,
    "class" TEXT NOT NULL,
    "confidence" DOUBLE PRECISION NOT NULL,
    "probabilities" JSON NOT NULL,
    "box_x" INTEGER NOT NULL,
    "box_y" INTEGER NOT NULL,
    "box_width" INTEGER NOT NULL,
    "box_height" INTEGER NOT NULL,
    "area_px" DOUBLE PRECISION NOT NULL,
    "area_um2" DOUBLE PRECISION,
    "flags" TEXT[],
    "counted" BOOLEAN NOT NULL,

    CONSTRAINT "cells_pkey" PRIMARY KEY ("analysis_id","image_index","number")
);

-- CreateTable
CREATE TABLE "cell_rasters" (
    "analysis_id" UUID NOT NULL,
    "image_index" INTEGER NOT NULL,
    "cell_number" INTEGER NOT NULL,
    "mask" BYTEA NOT NULL,
    "crop" BYTEA NOT NULL,
    "cam" BYTEA NOT NULL,

    CONSTRAINT "cell_rasters_pkey" PRIMARY KEY ("analysis_id","image_index","cell_number")
);

-- CreateTable
CREATE TABLE "consistency_scores" (
    "analysis_id" UUID NOT NULL,
    "image_index" INTEGER NOT NULL,
    "cell_number" INTEGER NOT NULL,
    "score" DOUBLE PRECISION NOT NULL,

    CONSTRAINT "consistency_scores_pkey" PRIMARY KEY ("analysis_id","image_index","cell_number")
);

-- CreateTable
CREATE TABLE "differential_rows" (
    "analysis_id" UUID NOT NULL,
    "class" TEXT NOT NULL,
    "count" INTEGER NOT NULL,
    "percent" DOUBLE PRECISION,
    "ci_low" DOUBLE PRECISION,
    "ci_high" DOUBLE PRECISION,
    "absolute_count" DOUBLE PRECISION,

    CONSTRAINT "differential_rows_pkey" PRIMARY KEY ("analysis_id","class")
);

-- CreateTable
CREATE TABLE "deliveries" (
    "id" UUID NOT NULL,
    "analysis_id" UUID NOT NULL,
    "event_type" TEXT NOT NULL,
    "url" TEXT NOT NULL,
    "body" TEXT NOT NULL,
    "status" "delivery_status" NOT NULL DEFAULT 'pending',
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "next_attempt_at" TIMESTAMPTZ(3),
    "last_status" INTEGER,
    "last_error" TEXT,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "delivered_at" TIMESTAMPTZ(3),

    CONSTRAINT "deliveries_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "analyses_accession_number_id_idx" ON "analyses"("accession_number", "id" DESC);

-- CreateIndex
CREATE INDEX "analyses_status_created_at_idx" ON "analyses"("status", "created_at");

-- CreateIndex
CREATE INDEX "analyses_created_at_idx" ON "analyses"("created_at");

-- CreateIndex
CREATE INDEX "images_status_idx" ON "images"("status");

-- CreateIndex
CREATE INDEX "cells_analysis_id_class_idx" ON "cells"("analysis_id", "class");

-- CreateIndex
CREATE INDEX "consistency_scores_score_idx" ON "consistency_scores"("score");

-- CreateIndex
CREATE INDEX "deliveries_status_next_attempt_at_idx" ON "deliveries"("status", "next_attempt_at");

-- CreateIndex
CREATE UNIQUE INDEX "deliveries_analysis_id_event_type_key" ON "deliveries"("analysis_id", "event_type");

-- AddForeignKey
ALTER TABLE "images" ADD CONSTRAINT "images_analysis_id_fkey" FOREIGN KEY ("analysis_id") REFERENCES "analyses"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "image_files" ADD CONSTRAINT "image_files_analysis_id_image_index_fkey" FOREIGN KEY ("analysis_id", "image_index") REFERENCES "images"("analysis_id", "index") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "image_saliency" ADD CONSTRAINT "image_saliency_analysis_id_image_index_fkey" FOREIGN KEY ("analysis_id", "image_index") REFERENCES "images"("analysis_id", "index") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "cells" ADD CONSTRAINT "cells_analysis_id_image_index_fkey" FOREIGN KEY ("analysis_id", "image_index") REFERENCES "images"("analysis_id", "index") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "cell_rasters" ADD CONSTRAINT "cell_rasters_analysis_id_image_index_cell_number_fkey" FOREIGN KEY ("analysis_id", "image_index", "cell_number") REFERENCES "cells"("analysis_id", "image_index", "number") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "consistency_scores" ADD CONSTRAINT "consistency_scores_analysis_id_image_index_cell_number_fkey" FOREIGN KEY ("analysis_id", "image_index", "cell_number") REFERENCES "cells"("analysis_id", "image_index", "number") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "differential_rows" ADD CONSTRAINT "differential_rows_analysis_id_fkey" FOREIGN KEY ("analysis_id") REFERENCES "analyses"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "deliveries" ADD CONSTRAINT "deliveries_analysis_id_fkey" FOREIGN KEY ("analysis_id") REFERENCES "analyses"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- Posted images and PNGs are compressed already: storing them plain saves PostgreSQL a vain attempt on every write.
ALTER TABLE "image_files" ALTER COLUMN "bytes" SET STORAGE EXTERNAL;
ALTER TABLE "image_saliency" ALTER COLUMN "png" SET STORAGE EXTERNAL;
ALTER TABLE "cell_rasters" ALTER COLUMN "mask" SET STORAGE EXTERNAL;
ALTER TABLE "cell_rasters" ALTER COLUMN "crop" SET STORAGE EXTERNAL;
ALTER TABLE "cell_rasters" ALTER COLUMN "cam" SET STORAGE EXTERNAL;
