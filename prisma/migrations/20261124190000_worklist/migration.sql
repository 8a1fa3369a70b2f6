-- The worklist: what waits for a signature. Signed results leave this index, so it stays as small as the list is.
CREATE INDEX "analyses_unsigned_idx" ON "analyses"("laboratory", "id" DESC)
    WHERE "status" = 'completed' AND coalesce("result"->'verification'->>'status', 'preliminary') IN ('preliminary', 'amended');
