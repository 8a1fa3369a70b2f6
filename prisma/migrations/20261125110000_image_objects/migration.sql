-- AlterTable
ALTER TABLE "image_files" ALTER COLUMN "bytes" DROP NOT NULL,
ADD COLUMN     "object_key" TEXT;

-- CreateTable
CREATE TABLE "unreferenced_objects" (
    "key" TEXT NOT NULL,
    "due_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "unreferenced_objects_pkey" PRIMARY KEY ("key")
);

-- CreateIndex
CREATE INDEX "unreferenced_objects_due_at_idx" ON "unreferenced_objects"("due_at");

-- The schema file cannot express what follows.
-- An image lies in one place.
ALTER TABLE "image_files" ADD CONSTRAINT "image_files_one_place" CHECK (("bytes" IS NULL) <> ("object_key" IS NULL));

-- However a row goes (an analysis deleted, images removed by age, a cascade), its object goes after it.
CREATE FUNCTION "note_unreferenced_object"() RETURNS trigger AS $$
BEGIN
  INSERT INTO "unreferenced_objects" ("key", "due_at") VALUES (OLD."object_key", now()) ON CONFLICT DO NOTHING;
  RETURN NULL;
END;
$$ LANGUAGE plpgsql;

CREATE TRIGGER "image_files_object" AFTER DELETE ON "image_files"
  FOR EACH ROW WHEN (OLD."object_key" IS NOT NULL) EXECUTE FUNCTION "note_unreferenced_object"();
