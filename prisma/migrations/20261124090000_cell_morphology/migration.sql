-- AlterTable
ALTER TABLE "cells" ADD COLUMN     "morphology" JSON,
ADD COLUMN     "reject_score" DOUBLE PRECISION,
ADD COLUMN     "subtype" JSON;
