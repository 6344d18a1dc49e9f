/* Reading zip archives: stored or deflated entries, zip64. libzip reads the directory and inflates; what it
 * leaves to its callers is here: an archive is refused whose entries together claim more bytes than the file
 * has (entries that overlap), that has a name twice, or that claims to inflate to far more than weights can.
 * Every entry that is read is held against its checksum, unless the archive has none at all. Writing is in
 * zip_write.h. */
#ifndef DLM_ZIP_H
#define DLM_ZIP_H

#include "base/base.h"

typedef struct dlm_zip dlm_zip;

/* The file is read, not mapped, so that what was read does not count as memory in use. */
dlm_status dlm__zip_open(const char *path, dlm_zip **zip, dlm_error *err);
/* The same of bytes (n), which must stay until close; name is for messages. */
dlm_status dlm__zip_parse(const char *name, const void *bytes, size_t n, dlm_zip **zip, dlm_error *err);
void dlm__zip_close(dlm_zip *zip);
size_t dlm__zip_count(const dlm_zip *zip);

typedef struct dlm_zip_entry {
    const char *name; /* ends with a 0; belongs to the archive */
    uint64_t size;    /* inflated */
    uint64_t index;   /* as dlm__zip_read takes it */
} dlm_zip_entry;
/* In the order of their names. */
const dlm_zip_entry *dlm__zip_at(const dlm_zip *zip, size_t i);
/* NULL: there is none of this name. */
const dlm_zip_entry *dlm__zip_find(const dlm_zip *zip, const char *name);

/* All bytes of an entry into `bytes` (its size). */
dlm_status dlm__zip_read(dlm_zip *zip, const dlm_zip_entry *entry, void *bytes, dlm_error *err);

#endif
