/* dlm_score on a chosen instruction set (isa as for dlm__compute_create, NULL: the best). */
#ifndef DLM_SCORE_H
#define DLM_SCORE_H

#include "diffusion/sampler.h"

dlm_status dlm__score(const char *isa, const dlm_model *model, const dlm_score_options *options, size_t n,
                      const size_t *lengths, const int32_t *ids, const uint8_t *fixed, double *log_likelihood,
                      size_t *forwards, dlm_error *err);

#endif
