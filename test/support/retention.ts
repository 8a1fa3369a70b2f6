/** The part of a worker's configuration that removes nothing. */
export const KEEP_ALL = {
  idempotencyHours: 72,
  retentionAuditDays: 0,
  retentionDays: 0,
  retentionImagesDays: 0,
  retentionMasksDays: 0,
} as const;
