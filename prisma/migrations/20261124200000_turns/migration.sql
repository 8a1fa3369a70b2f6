-- AlterTable
ALTER TABLE "analyses" ADD COLUMN     "turn" INTEGER,
ADD COLUMN     "turn_end" INTEGER;

-- Partial, so that they hold what waits and not what has ended. The schema file cannot express that.
CREATE INDEX "analyses_turns_idx" ON "analyses"("priority", "laboratory", "turn_end") WHERE "status" IN ('queued', 'processing');
CREATE INDEX "analyses_next_turn_idx" ON "analyses"("priority", "turn") WHERE "status" = 'queued';
