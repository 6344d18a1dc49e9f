/* Measures a network on windows of a corpus: what `dlm_eval` and the trainer's own evaluation share. */
#ifndef DLM_EVAL_H
#define DLM_EVAL_H

#include "diffusion/likelihood.h"
#include "train/data.h"

/* The windows are scored as the network's config says: as they are, or (padded) shown with [PAD] up to the
 * windows' seq_len. options: seed, draws, progress (stage "eval", in windows) and user are read; seq_len and
 * max_documents have been settled by whoever made the windows. draws may be 0 here: no NELBO; without
 * cross_entropy the original's figure is left out; paired may be NULL. DLM_ARGUMENT when there is no window.
 */
dlm_status dlm__eval_windows(const dlm_network *network, dlm_compute *compute, int32_t mask_id,
                             int32_t pad_id, const dlm_data *data, const dlm_windows *windows,
                             const dlm_eval_options *options, bool cross_entropy, dlm_paired *paired,
                             dlm_eval_result *result, dlm_error *err);
/* The same of windows first .. first + n - 1 alone, by the masks that they have among all of them; of none
 * the sums are 0. */
dlm_status dlm__eval_sums(const dlm_network *network, dlm_compute *compute, int32_t mask_id, int32_t pad_id,
                          const dlm_data *data, const dlm_windows *windows, size_t first, size_t n,
                          const dlm_eval_options *options, bool cross_entropy, dlm_likelihood_sums *sums,
                          dlm_error *err);

#endif
