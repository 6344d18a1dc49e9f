/* Writing zip archives as torch.save does: stored entries whose bytes begin at multiples of 64, zip64 where a
 * number needs it. By hand, since libzip neither aligns entries nor writes before it has seen all of them. */
#ifndef DLM_ZIP_WRITE_H
#define DLM_ZIP_WRITE_H

#include "base/base.h"

typedef struct dlm_zip_writer dlm_zip_writer;
/* Written beside path, and renamed when whole. */
dlm_status dlm__zip_create(const char *path, dlm_zip_writer **writer, dlm_error *err);
/* name: at most DLM_ZIP_NAME bytes of ASCII, another one each time. */
#define DLM_ZIP_NAME ((size_t)255)
dlm_status dlm__zip_add(dlm_zip_writer *writer, const char *name, const void *bytes, size_t n,
                        dlm_error *err);
/* Frees writer in either case. */
dlm_status dlm__zip_commit(dlm_zip_writer *writer, dlm_error *err);
void dlm__zip_abort(dlm_zip_writer *writer);

#endif
