/**
 * Whose turn it is: the number that lets the images of laboratories take turns (docs/decisions/0072). Start-time fair queueing
 * (Goyal, Vin and Cheng 1996) at the cost of one for each image: an order's images get consecutive numbers, which begin behind
 * those of the same laboratory that wait, and never before the one whose turn it is now.
 */

/**
 * The number of the first of an order's images: a query of one row and column `turn`. The arguments are names of parameters.
 * Two orders that come at the same instant may get the same numbers.
 */
export const nextTurn = ({
  laboratory,
  priority,
}: {
  readonly laboratory: string;
  readonly priority: string;
}): string =>
  `WITH now_serving AS (
     SELECT coalesce(
       least(
         (SELECT min(turn) FROM analyses WHERE priority = ${priority}::priority AND status = 'queued'),
         -- Of an order under way, the first image that still waits.
         (SELECT min(turn + (SELECT min(index) FROM images WHERE analysis_id = analyses.id AND status = 'queued'))
            FROM analyses WHERE priority = ${priority}::priority AND status = 'processing')),
       -- Nobody waits: the last ones that were taken.
       (SELECT max(turn_end) - 1 FROM analyses WHERE priority = ${priority}::priority AND status = 'processing'),
       0) AS turn)
   SELECT greatest(
            (SELECT turn FROM now_serving),
            (SELECT max(turn_end) FROM analyses
              WHERE priority = ${priority}::priority AND laboratory = ${laboratory}
                AND status IN ('queued', 'processing'))) AS turn`;
