/* What the statistics of texts share; the calls themselves are in diffusionlm.h. */
#ifndef DLM_TEXT_STATISTICS_H
#define DLM_TEXT_STATISTICS_H

#include "base/base.h"
#include "text/suffixes.h"

#define DLM_TEXTS_TOKENS_MAX DLM_SUFFIXES_TOKENS_MAX

/* Counts the texts' tokens. DLM_ARGUMENT when they are too many, or one is negative. */
dlm_status dlm__texts_check(const dlm_texts *texts, size_t *tokens, dlm_error *err);

#endif
