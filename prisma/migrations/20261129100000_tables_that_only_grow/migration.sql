-- The schema file cannot express this. Rows of these tables come with their image and are found by its key. By its defaults PostgreSQL looks through a
-- table each time it has grown by a tenth or a fifth: every few seconds while a database is new, which cost up to a tenth of all that it did for an image
-- (docs/decisions/0086). What changes in place (images, analyses) keeps the defaults. A table that was never looked through is read by its key.
ALTER TABLE "image_files" SET (autovacuum_analyze_threshold = 5000, autovacuum_vacuum_insert_threshold = 20000,
  toast.autovacuum_vacuum_insert_threshold = 200000);
ALTER TABLE "image_saliency" SET (autovacuum_analyze_threshold = 5000, autovacuum_vacuum_insert_threshold = 20000,
  toast.autovacuum_vacuum_insert_threshold = 200000);
ALTER TABLE "cell_rasters" SET (autovacuum_analyze_threshold = 5000, autovacuum_vacuum_insert_threshold = 20000,
  toast.autovacuum_vacuum_insert_threshold = 200000);
ALTER TABLE "cells" SET (autovacuum_analyze_threshold = 5000, autovacuum_vacuum_insert_threshold = 20000);
ALTER TABLE "consistency_scores" SET (autovacuum_analyze_threshold = 5000, autovacuum_vacuum_insert_threshold = 20000);
ALTER TABLE "differential_rows" SET (autovacuum_analyze_threshold = 5000, autovacuum_vacuum_insert_threshold = 20000);
ALTER TABLE "audit_entries" SET (autovacuum_analyze_threshold = 5000, autovacuum_vacuum_insert_threshold = 20000);
