/* The functions that Python has for the callbacks of diffusionlm.h. Their user is a handle of what watches the
 * call. */
bool dlm_python_progress(void *user, const char *stage, uint64_t done, uint64_t total, double seconds);
bool dlm_python_step(void *user, const dlm_sample_step *step);
void dlm_python_allow(void *user, size_t sequence, size_t position, const int32_t *ids, uint8_t *allowed);
